//! packet(7) sockets: nothing comes to them before their filter is there.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use image::state::packet::{Device, Membership};
use image::state::{FileId, PacketSocket};
use nix::libc;
use nix::net::if_::if_nametoindex;

use super::{Named, options};
use crate::error::{Error, Result, errno_of};

/// linux/if_packet.h.
const ADD_MEMBERSHIP: i32 = 1;
const FANOUT: i32 = 18;

pub(super) fn make_all(
    sockets: &[Named<'_, PacketSocket>],
    open: &mut HashMap<FileId, OwnedFd>,
) -> Result<()> {
    for (file, socket) in sockets {
        let act = "make a packet socket";
        let failed = |error| Error::Object { file: file.id, act, errno: errno_of(&error) };
        open.insert(file.id, make(socket).map_err(failed)?);
    }
    Ok(())
}

fn make(state: &PacketSocket) -> io::Result<OwnedFd> {
    let kind = [libc::AF_PACKET, state.kind.cast_signed(), 0];
    let fd = tracee::host::new_socket(kind)?;
    options::before_bind(&fd, &state.options)?;
    options::apply(&fd, &state.options)?;
    options::attach_filter(&fd, &state.options)?;
    for member in &state.memberships {
        join(&fd, member)?;
    }
    let index = state.device.as_ref().map(index_of).transpose()?.unwrap_or(0);
    let protocol = u16::try_from(state.protocol).map_err(|_| io::ErrorKind::InvalidInput)?;
    if protocol != 0 || index != 0 {
        tracee::host::bind_packets(fd.as_fd(), protocol, index)?;
    }
    if let Some(fanout) = state.fanout {
        options::set(fd.as_fd(), libc::SOL_PACKET, FANOUT, fanout)?;
    }
    Ok(fd)
}

/// `struct packet_mreq`: a word, two halves, room for eight bytes.
fn join(fd: &OwnedFd, member: &Membership) -> io::Result<()> {
    let mut address = [0; Membership::LONGEST];
    let room = address.get_mut(..member.address.len()).ok_or(io::ErrorKind::InvalidInput)?;
    room.copy_from_slice(&member.address);
    let kind = u16::try_from(member.kind).map_err(|_| io::ErrorKind::InvalidInput)?;
    let length = u16::try_from(member.address.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut request = index_of(&member.device)?.to_ne_bytes().to_vec();
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&address);
    tracee::host::setsockopt(fd.as_fd(), libc::SOL_PACKET, ADD_MEMBERSHIP, &request)
}

/// The number of the interface of this name here.
fn index_of(device: &Device) -> io::Result<u32> {
    match &device.name {
        Some(name) => Ok(if_nametoindex(name.as_str())?),
        None => Ok(device.index),
    }
}
