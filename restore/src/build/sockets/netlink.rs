//! netlink(7) sockets, under their ports.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use image::state::{FileId, NetlinkSocket};
use nix::libc;
use nix::sys::socket::{NetlinkAddr, bind, connect};

use super::{Named, options};
use crate::error::{Error, Result, errno_of};

/// linux/netlink.h.
const ADD_MEMBERSHIP: i32 = 1;

pub(super) fn make_all(
    sockets: &[Named<'_, NetlinkSocket>],
    open: &mut HashMap<FileId, OwnedFd>,
) -> Result<()> {
    for (file, socket) in sockets {
        let act = "make a netlink socket";
        let failed = |error| Error::Object { file: file.id, act, errno: errno_of(&error) };
        open.insert(file.id, make(socket).map_err(failed)?);
    }
    Ok(())
}

fn make(state: &NetlinkSocket) -> io::Result<OwnedFd> {
    let family = libc::AF_NETLINK.cast_unsigned();
    let kind = [family, state.kind, state.protocol].map(u32::cast_signed);
    let fd = tracee::host::new_socket(kind)?;
    options::before_bind(&fd, &state.options)?;
    if state.port != 0 {
        bind(fd.as_raw_fd(), &NetlinkAddr::new(state.port, 0))?;
    }
    for group in &state.groups {
        options::set(fd.as_fd(), libc::SOL_NETLINK, ADD_MEMBERSHIP, *group)?;
    }
    if let Some((port, groups)) = state.destination {
        connect(fd.as_raw_fd(), &NetlinkAddr::new(port, groups))?;
    }
    options::apply(&fd, &state.options)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use image::state::SocketOptions;
    use nix::sys::socket::{SockaddrStorage, getsockname};

    use super::*;

    #[test]
    fn its_port_is_its_own_again() {
        let state = NetlinkSocket {
            inode: 1,
            kind: 3,
            protocol: 0,
            port: 0x7000_0000 | std::process::id(),
            groups: vec![1, 33],
            destination: None,
            options: SocketOptions::default(),
        };
        let made = make(&state).expect("a netlink socket");
        let own: SockaddrStorage = getsockname(made.as_raw_fd()).expect("an address");
        let own = own.as_netlink_addr().expect("of netlink");
        assert_eq!((own.pid(), own.groups()), (state.port, 1));
        assert!(make(&state).is_err(), "somebody has the port");
    }
}
