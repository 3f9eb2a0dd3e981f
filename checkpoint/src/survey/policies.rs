//! Memory policy of single mappings (mbind(2)): only /proc/PID/numa_maps tells, and to write it the
//! kernel walks every page. Where memory is all in one place it says nothing.

use std::fs;

use tracee::HostPid;

use super::refusals::Trouble;

/// Refuses a process of which a mapping has a policy that its neighbours do not have.
pub(crate) fn trouble(pid: HostPid) -> Option<Trouble> {
    let online = fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    if matches!(online.trim(), "" | "0") {
        return None;
    }
    judge(&fs::read_to_string(format!("/proc/{}/numa_maps", pid.0)).ok()?)
}

/// `ADDRESS POLICY …` a line (numa(7)). A policy of the thread shows in every mapping that has none.
fn judge(text: &str) -> Option<Trouble> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let policy = |rest: &str| rest.split(' ').next().unwrap_or_default().to_owned();
    let first = policy(lines.next()?.1);
    let (address, rest) = lines.find(|(_, rest)| policy(rest) != first)?;
    let place = format!("{address}: {}", policy(rest));
    Some(Trouble::new(place, "memory policy of a single mapping (mbind(2))"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_policy_is_that_of_the_thread() {
        assert_eq!(judge(""), None);
        let same = "00400000 interleave:0-1 file=/x mapped=1 N0=1\n7f00 interleave:0-1 anon=3\n";
        assert_eq!(judge(same), None);
        let trouble = judge("00400000 default file=/x\n7f00 bind:1 anon=3 dirty=3 N1=3\n");
        assert_eq!(trouble.expect("refused").place, "7f00: bind:1");
    }
}
