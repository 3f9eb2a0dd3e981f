//! Packet sockets: entries of `files.img`.

use super::options::{LONGEST_DEVICE, from_options, to_options};
use super::sockets::same_namespace;
use crate::error::BadField;
use crate::messages::{FownEntry, PacketMclist, PacketSockEntry};
use crate::state::check::bounded_text;
use crate::state::options::{PACKET, SocketOption};
use crate::state::packet::{Device, Membership};
use crate::state::{PacketSocket, SocketOptions};

/// Options that have fields of CRIU's own, linux/if_packet.h.
const COPY_THRESH: u32 = 7;
const AUXDATA: u32 = 8;
const ORIGDEV: u32 = 9;
const VERSION: u32 = 10;
const RESERVE: u32 = 12;
const LOSS: u32 = 14;
const VNET_HDR: u32 = 15;
const TIMESTAMP: u32 = 17;

const RAW: u32 = 3;
const DATAGRAM: u32 = 2;
/// What CRIU writes for a socket that shares with none.
const NO_FANOUT: u32 = u32::MAX;
/// Interfaces are numbered with an int.
const MOST_DEVICES: u32 = i32::MAX as u32;

pub(super) fn entry(
    socket: &PacketSocket,
    id: u32,
    flags: u32,
    fown: FownEntry,
    net: u32,
) -> PacketSockEntry {
    let value = |name| number(&socket.options, name);
    let member = |one: &Membership| PacketMclist {
        index: one.device.index,
        r#type: one.kind,
        addr: one.address.clone(),
        device: one.device.name.clone(),
    };
    PacketSockEntry {
        id,
        r#type: socket.kind,
        protocol: socket.protocol,
        flags,
        ifindex: socket.device.as_ref().map_or(0, |device| device.index),
        fown,
        opts: to_options(&socket.options),
        version: value(VERSION),
        reserve: value(RESERVE),
        aux_data: value(AUXDATA) != 0,
        orig_dev: value(ORIGDEV) != 0,
        vnet_hdr: value(VNET_HDR) != 0,
        loss: value(LOSS) != 0,
        timestamp: value(TIMESTAMP),
        copy_thresh: value(COPY_THRESH),
        mclist: socket.memberships.iter().map(member).collect(),
        fanout: Some(socket.fanout.unwrap_or(NO_FANOUT)),
        rx_ring: None,
        tx_ring: None,
        ns_id: Some(net),
        device: socket.device.as_ref().and_then(|device| device.name.clone()),
    }
}

/// Zero if it is as in a new socket.
fn number(options: &SocketOptions, name: u32) -> u32 {
    let mut more = options.more.iter();
    let option = more.find(|option| (option.level, option.name) == (PACKET, name));
    let value = option.and_then(|option| option.value.first_chunk().copied());
    value.map_or(0, u32::from_le_bytes)
}

pub(super) fn from(entry: &PacketSockEntry, net: Option<u32>) -> Result<PacketSocket, BadField> {
    same_namespace("psk.ns_id", entry.ns_id, net)?;
    if !matches!(entry.r#type, DATAGRAM | RAW) {
        return Err(BadField::value("psk.type", entry.r#type, "2 or 3"));
    }
    if entry.protocol > u32::from(u16::MAX) {
        return Err(BadField::value("psk.protocol", entry.protocol, "at most 65535"));
    }
    if entry.rx_ring.is_some() || entry.tx_ring.is_some() {
        return Err(BadField::unsupported("psk.rx_ring", "a ring of a packet socket"));
    }
    if entry.mclist.len() > PacketSocket::MOST_MEMBERSHIPS {
        return Err(BadField::count("psk.mclist", entry.mclist.len(), "at most 4096"));
    }
    let fanout = entry.fanout.filter(|fanout| *fanout != NO_FANOUT);
    if fanout.is_some_and(|fanout| fanout >> 16 & 0xff >= PacketSocket::FANOUT_TYPES) {
        return Err(BadField::unsupported("psk.fanout", "a fanout by a program"));
    }
    let mut options = from_options(&entry.opts, None)?;
    // A new socket has all of these at zero.
    for (name, value) in [
        (VERSION, entry.version),
        (RESERVE, entry.reserve),
        (AUXDATA, u32::from(entry.aux_data)),
        (ORIGDEV, u32::from(entry.orig_dev)),
        (VNET_HDR, u32::from(entry.vnet_hdr)),
        (LOSS, u32::from(entry.loss)),
        (TIMESTAMP, entry.timestamp),
        (COPY_THRESH, entry.copy_thresh),
    ] {
        if value != 0 && number(&options, name) == 0 {
            let value = value.to_le_bytes().to_vec();
            options.more.push(SocketOption { level: PACKET, name, value });
        }
    }
    let device = (entry.ifindex != 0)
        .then(|| device("psk.ifindex", entry.ifindex, entry.device.as_ref()))
        .transpose()?;
    Ok(PacketSocket {
        kind: entry.r#type,
        protocol: entry.protocol,
        device,
        memberships: entry.mclist.iter().map(membership).collect::<Result<_, _>>()?,
        fanout,
        options,
    })
}

fn membership(entry: &PacketMclist) -> Result<Membership, BadField> {
    if entry.r#type > 3 {
        return Err(BadField::value("psk.mclist.type", entry.r#type, "0 to 3"));
    }
    if entry.addr.len() > Membership::LONGEST {
        return Err(BadField::count("psk.mclist.addr", entry.addr.len(), "at most 8 bytes"));
    }
    let device = device("psk.mclist.index", entry.index, entry.device.as_ref())?;
    Ok(Membership { device, kind: entry.r#type, address: entry.addr.clone() })
}

fn device(field: &'static str, index: u32, name: Option<&String>) -> Result<Device, BadField> {
    if !(1..=MOST_DEVICES).contains(&index) {
        return Err(BadField::value(field, index, "the number of an interface"));
    }
    if let Some(name) = name {
        bounded_text("psk.device", name, LONGEST_DEVICE)?;
    }
    Ok(Device { index, name: name.cloned() })
}
