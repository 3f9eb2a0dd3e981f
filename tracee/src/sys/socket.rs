//! getsockopt(2), setsockopt(2) with the option as bytes; descriptors that come by unix(7) sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// The option's value, at most `max` bytes of it.
pub(crate) fn get(fd: BorrowedFd<'_>, level: i32, option: i32, max: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0_u8; max];
    let mut len = libc::socklen_t::try_from(max).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel writes at most `len` bytes, the length of `value`, and then `len`.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut len)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    value.truncate(len as usize);
    Ok(value)
}

/// The same of an option that is also a question: `value` holds it, and then the answer.
pub(crate) fn ask(fd: BorrowedFd<'_>, level: i32, option: i32, value: &mut [u8]) -> io::Result<()> {
    let mut len =
        libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads and writes at most `len` bytes, the length of `value`, and then `len`.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// socket(2) by numbers: family, type, protocol.
pub(crate) fn new([family, kind, protocol]: [i32; 3]) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bind(2) of a packet socket: to a protocol in network order and an interface, packet(7).
pub(crate) fn bind_packets(fd: BorrowedFd<'_>, protocol: u16, device: u32) -> io::Result<()> {
    const PACKET: u16 = 17; // AF_PACKET
    const { assert!(PACKET as i32 == libc::AF_PACKET) };
    // SAFETY: all zeros is a valid struct sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = PACKET;
    address.sll_protocol = protocol;
    address.sll_ifindex = device.cast_signed();
    let size = libc::socklen_t::try_from(size_of_val(&address)).expect("20");
    // SAFETY: the kernel reads the `size` bytes of `address`.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What recvmsg(2) found when it only looked.
#[derive(Debug)]
pub struct Peeked {
    /// Length of the packet (however little room there is), or of what there was room for.
    pub length: usize,
    /// Copies of the files that come along (SCM_RIGHTS).
    pub files: Vec<OwnedFd>,
    /// Who sent it, if that is an address of IP.
    pub from: Option<SocketAddr>,
}

/// Most files in one message (SCM_MAX_FD, net/scm.h).
const MOST_FILES: usize = 253;

/// Looks at what waits first, without waiting and without taking it.
pub(crate) fn peek(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Peeked> {
    // Room for credentials, a pidfd, security and the files, each with its head; as words, so that it
    // is aligned as `struct cmsghdr` must be.
    let mut control = [0_u64; (512 + 4 * MOST_FILES) / 8 + 1];
    let mut vector = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: all zeros is a valid struct msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    let mut name = [0_u64; 16];
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = 128;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_TRUNC | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the kernel writes into `into` and `control`, no more than their lengths; both live on.
    let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut files = Vec::new();
    // SAFETY: `message` is as recvmsg left it, and `control` lives on.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give headers that lie within `control`.
        let found = unsafe { *header };
        if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: the data of a header lies behind it.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<i32>();
            // SAFETY: numbers only.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = found.cmsg_len.saturating_sub(head) / size_of::<i32>();
            for at in 0..count {
                // SAFETY: the kernel wrote `count` descriptors there, each ours from now on.
                files.push(unsafe { OwnedFd::from_raw_fd(data.add(at).read_unaligned()) });
            }
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    let name: Vec<u8> = name.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let from = address(name.get(..message.msg_namelen as usize).unwrap_or_default());
    Ok(Peeked { length: length.unsigned_abs(), files, from })
}

/// `struct sockaddr_in` or `sockaddr_in6`, ip(7).
fn address(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(name.first_chunk().copied()?);
    let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = name.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::new(octets.into(), port))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = name.get(8..24)?.try_into().ok()?;
            Some(SocketAddr::new(octets.into(), port))
        }
        _ => None,
    }
}

/// Sets the option.
pub(crate) fn set(fd: BorrowedFd<'_>, level: i32, option: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads the `len` bytes of `value`.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.as_ptr().cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The program of classic BPF that a socket has (SO_GET_FILTER, Linux 4.4), eight bytes an instruction;
/// none, no program. EACCES: it is another kind of program.
pub(crate) fn filter(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut program = vec![0_u64; MOST_INSTRUCTIONS];
    // The kernel counts in instructions here, not in bytes.
    let mut count = libc::socklen_t::try_from(program.len()).expect("4096");
    let (fd, into) = (fd.as_raw_fd(), program.as_mut_ptr().cast());
    // SAFETY: the kernel writes at most `count` instructions of eight bytes, the room of `program`, and
    // then `count`; any bits are valid in it.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_GET_FILTER, into, &raw mut count)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    program.truncate(count as usize);
    Ok(program.into_iter().flat_map(u64::to_ne_bytes).collect())
}

/// BPF_MAXINSNS, linux/bpf_common.h.
const MOST_INSTRUCTIONS: usize = 4096;

/// Gives a socket such a program (SO_ATTACH_FILTER).
pub(crate) fn attach_filter(fd: BorrowedFd<'_>, program: &[u8]) -> io::Result<()> {
    let word = |eight: &[u8]| u64::from_ne_bytes(eight.try_into().expect("eight bytes"));
    let mut instructions: Vec<u64> = program.chunks_exact(8).map(word).collect();
    let count = u16::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: count, filter: instructions.as_mut_ptr().cast() };
    let size = libc::socklen_t::try_from(size_of_val(&program)).expect("16");
    let (fd, from) = (fd.as_raw_fd(), (&raw const program).cast());
    // SAFETY: the kernel reads `program` and the `count` instructions it points to, which live on; it
    // checks them itself.
    let result =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, from, size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// One message of one byte and the descriptors with it (unix(7), SCM_RIGHTS); `None` at the end. EMFILE
/// if not all descriptors found room.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> nix::Result<(Option<u8>, Vec<OwnedFd>)> {
    let mut word = [0];
    let mut space = nix::cmsg_space!([RawFd; 253]);
    loop {
        let mut into = [io::IoSliceMut::new(&mut word)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let got = match recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut space), flags) {
            Err(Errno::EINTR) => continue,
            got => got?,
        };
        let numbers = got.cmsgs()?.filter_map(|message| match message {
            ControlMessageOwned::ScmRights(numbers) => Some(numbers),
            _ => None,
        });
        // SAFETY: the kernel has just put these into our table; nobody else knows them.
        let fds = numbers.flatten().map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect();
        let (bytes, short) = (got.bytes, got.flags.contains(MsgFlags::MSG_CTRUNC));
        return if short { Err(Errno::EMFILE) } else { Ok(((bytes == 1).then_some(word[0]), fds)) };
    }
}
