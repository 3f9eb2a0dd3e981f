//! socket(7) options, set again.

use std::io::Result;
use std::os::fd::{AsFd, BorrowedFd};

use image::state::{SocketOption, SocketOptions};
use nix::libc;

/// SO_BUF_LOCK, asm-generic/socket.h (Linux 5.15).
const SO_BUF_LOCK: i32 = 72;

/// What must be set before bind(2): it decides where the socket belongs.
pub(crate) fn before_bind(socket: &impl AsFd, options: &SocketOptions) -> Result<()> {
    let fd = socket.as_fd();
    if let Some(device) = &options.bound_device {
        tracee::host::setsockopt(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_bytes())?;
    }
    number(fd, libc::SO_MARK, options.mark)
}

/// Everything else. Values that are the kernel's own are left alone, so that a socket kind that does
/// not know an option is not asked to set it.
pub(crate) fn apply(socket: &impl AsFd, options: &SocketOptions) -> Result<()> {
    let fd = socket.as_fd();
    // The kernel doubles what it is given; *FORCE goes beyond net.core.*mem_max (CAP_NET_ADMIN).
    number(fd, libc::SO_SNDBUFFORCE, options.send_buffer / 2)?;
    number(fd, libc::SO_RCVBUFFORCE, options.receive_buffer / 2)?;
    if options.send_buffer != 0 {
        set(fd, libc::SOL_SOCKET, SO_BUF_LOCK, options.buffer_lock)?;
    }
    time(fd, libc::SO_SNDTIMEO, options.send_timeout)?;
    time(fd, libc::SO_RCVTIMEO, options.receive_timeout)?;
    for (option, value) in [
        (libc::SO_BROADCAST, options.broadcast),
        (libc::SO_KEEPALIVE, options.keep_alive),
        (libc::SO_PASSCRED, options.pass_credentials),
        (libc::SO_OOBINLINE, options.oob_inline),
        (libc::SO_DONTROUTE, options.no_route),
    ] {
        number(fd, option, u32::from(value))?;
    }
    number(fd, libc::SO_PRIORITY, options.priority)?;
    if options.receive_low_water > 1 {
        number(fd, libc::SO_RCVLOWAT, options.receive_low_water)?;
    }
    if let Some(seconds) = options.linger {
        let value = [1_u32.to_le_bytes(), seconds.to_le_bytes()].concat();
        tracee::host::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, &value)?;
    }
    if let Some([count, idle, interval]) = options.tcp_keep {
        set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, count)?;
        set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, idle)?;
        set(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, interval)?;
    }
    for SocketOption { level, name, value } in &options.more {
        let [level, name] = [*level, *name].map(u32::cast_signed);
        tracee::host::setsockopt(fd, level, name, value)?;
    }
    Ok(())
}

/// The program that looks at what comes in: when what waited before is in already.
pub(crate) fn attach_filter(socket: &impl AsFd, options: &SocketOptions) -> Result<()> {
    if !options.filter.is_empty() {
        tracee::host::attach_filter(socket.as_fd(), &options.filter)?;
    }
    number(socket.as_fd(), libc::SO_LOCK_FILTER, u32::from(options.filter_locked))
}

/// IP_TRANSPARENT (ip(7)): the socket may have an address that this host has not got yet.
pub(crate) fn set_transparent(fd: BorrowedFd<'_>, family: u32, on: bool) -> Result<()> {
    const IPV6_TRANSPARENT: i32 = 75; // linux/in6.h
    let (level, option) = match family {
        10 => (libc::IPPROTO_IPV6, IPV6_TRANSPARENT),
        _ => (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    };
    set(fd, level, option, u32::from(on))
}

/// Sets an int at any level.
pub(crate) fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: u32) -> Result<()> {
    tracee::host::setsockopt(fd, level, option, &value.to_le_bytes())
}

fn number(fd: BorrowedFd<'_>, option: i32, value: u32) -> Result<()> {
    if value == 0 { Ok(()) } else { set(fd, libc::SOL_SOCKET, option, value) }
}

fn time(fd: BorrowedFd<'_>, option: i32, (seconds, micros): (u64, u64)) -> Result<()> {
    if (seconds, micros) == (0, 0) {
        return Ok(());
    }
    let value = [seconds.to_le_bytes(), micros.to_le_bytes()].concat();
    tracee::host::setsockopt(fd, libc::SOL_SOCKET, option, &value)
}
