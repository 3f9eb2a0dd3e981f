//! Multicast groups of sockets: fields of qmig's own in `files.img`, which CRIU skips.

use std::net::IpAddr;

use crate::error::BadField;
use crate::messages::GroupEntry;
use crate::state::Group;
use crate::state::check::bounded_text;

/// IFNAMSIZ without its NUL.
const LONGEST_DEVICE: usize = 15;
/// Most groups of a socket: igmp_max_memberships is 20 unless an operator raised it.
const MOST_GROUPS: usize = 4096;

/// As they are written.
pub(super) fn entries(groups: &[Group]) -> Vec<GroupEntry> {
    let entry = |group: &Group| GroupEntry {
        group: octets(group.group),
        device: group.device.clone(),
        include: group.include,
        sources: group.sources.iter().copied().map(octets).collect(),
    };
    groups.iter().map(entry).collect()
}

/// As they are.
pub(super) fn groups(entries: &[GroupEntry]) -> Result<Vec<Group>, BadField> {
    if entries.len() > MOST_GROUPS {
        return Err(BadField::count("isk.groups", entries.len(), "at most 4096 groups"));
    }
    entries.iter().map(group).collect()
}

fn group(entry: &GroupEntry) -> Result<Group, BadField> {
    bounded_text("isk.groups.device", &entry.device, LONGEST_DEVICE)?;
    let count = entry.sources.len();
    if count > Group::MOST_SOURCES || entry.include && count == 0 {
        return Err(BadField::count("isk.groups.sources", count, "1 to 64, or none to exclude"));
    }
    let group = address("isk.groups.group", &entry.group)?;
    let sources: Vec<IpAddr> = entry
        .sources
        .iter()
        .map(|source| address("isk.groups.sources", source))
        .collect::<Result<_, _>>()?;
    if !group.is_multicast() || sources.iter().any(|one| one.is_ipv4() != group.is_ipv4()) {
        let length = entry.group.len() as u64;
        return Err(BadField::value(
            "isk.groups.group",
            length,
            "a group and sources of one family",
        ));
    }
    Ok(Group { group, device: entry.device.clone(), include: entry.include, sources })
}

/// In network order.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address of 4 or 16 octets.
pub(super) fn address(field: &'static str, octets: &[u8]) -> Result<IpAddr, BadField> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Ok(octets.into());
    }
    let octets = <[u8; 16]>::try_from(octets)
        .map_err(|_| BadField::count(field, octets.len(), "4 or 16 bytes of an address"))?;
    Ok(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_group_is_refused() {
        let good = Group {
            group: "ff02::42".parse().expect("an address"),
            device: "eth0".to_owned(),
            include: true,
            sources: vec!["fe80::1".parse().expect("an address")],
        };
        let written = entries(std::slice::from_ref(&good));
        assert_eq!(groups(&written).ok(), Some(vec![good]));
        let changed = |change: fn(&mut GroupEntry)| {
            let mut entry = written[0].clone();
            change(&mut entry);
            groups(&[entry]).is_err()
        };
        assert!(changed(|entry| entry.group = vec![239, 1, 2, 3]), "families differ");
        assert!(changed(|entry| entry.group = vec![1; 16]), "no group");
        assert!(changed(|entry| entry.group = vec![239; 5]), "no address");
        assert!(changed(|entry| entry.sources.clear()), "nobody to hear");
        assert!(changed(|entry| entry.sources = vec![vec![1; 16]; 65]), "too many");
        assert!(changed(|entry| entry.device = "a".repeat(16)), "no device");
    }
}
