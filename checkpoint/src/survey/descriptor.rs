//! What a descriptor is open on, told from the link under /proc/PID/fd and its stat.

use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::libc;
use nix::sys::stat::{major, minor};
use nix::sys::statfs::statfs;

use super::named::{Named, is_memory_device, named, without_deleted};
use super::refusals::{BY_CRIU, Trouble};

/// The kinds of open files that can be carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OpenOn {
    /// Regular file, directory, memory device, file of /proc.
    Named(Named),
    /// A pipe; by its inode.
    Pipe(u64),
    /// A pipe with a name: its path.
    Fifo(String),
    /// A socket of some family; by its inode.
    Socket(u64),
    /// eventfd(2).
    EventFd,
    /// epoll(7).
    Epoll,
    /// inotify(7).
    Inotify,
    /// fanotify(7).
    Fanotify,
    /// pidfd_open(2).
    PidFd,
    /// signalfd(2).
    SignalFd,
    /// timerfd_create(2).
    TimerFd,
    /// memfd_create(2), with its name.
    Memfd(String),
    /// A terminal, or the master of one: whether the other end comes along is another question.
    Tty,
}

/// What the person who asks for the migration allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    /// Bytes of one deleted file.
    pub(crate) ghost_limit: u64,
}

/// Judges a descriptor. `flags` are those of its open file description.
pub(crate) fn open_on(
    link: &Path,
    open: &Metadata,
    flags: u32,
    allowed: Allowed,
) -> Result<OpenOn, Trouble> {
    let shown = link.to_string_lossy();
    let refuse = |reason: &str| Trouble::new(shown.clone(), reason);
    let flags = flags.cast_signed();
    if flags & libc::O_PATH != 0 {
        // Nothing but a place: what it is does not matter, that it has a name does.
        return named(link, open, allowed.ghost_limit).map(OpenOn::Named);
    }
    let kind = open.file_type();
    if kind.is_fifo() {
        if !shown.starts_with("pipe:[") {
            // Without a name it is a node that is gone, which `named` refuses.
            return match named(link, open, allowed.ghost_limit)? {
                Named::Path(path) | Named::Ghost(path) | Named::Carried(path) => {
                    Ok(OpenOn::Fifo(path))
                }
            };
        }
        if flags & libc::O_ACCMODE != libc::O_RDONLY && flags & libc::O_DIRECT != 0 {
            return Err(refuse("a pipe in packet mode (O_DIRECT)"));
        }
        return Ok(OpenOn::Pipe(open.ino()));
    }
    if kind.is_socket() {
        return Ok(OpenOn::Socket(open.ino()));
    }
    if kind.is_block_device() {
        return Err(refuse("a block device"));
    }
    if kind.is_char_device() && !is_memory_device(open) {
        return terminal(&shown, open.rdev());
    }
    if let Some(name) = shown.strip_prefix("anon_inode:") {
        if name == "[pidfd]" && flags & libc::O_EXCL != 0 {
            return Err(refuse("a pidfd of a thread (PIDFD_THREAD)"));
        }
        return anonymous(&shown, name);
    }
    if !shown.starts_with('/') {
        let reason = match shown.split_once(':') {
            Some(("mnt" | "net" | "pid" | "user" | "uts" | "ipc" | "cgroup" | "time", _)) => {
                "a namespace"
            }
            _ => "no file of a kind that is known here",
        };
        return Err(refuse(reason).but(BY_CRIU));
    }
    if let Some(name) = memfd_name(link, open) {
        return Ok(OpenOn::Memfd(name?));
    }
    if flags & libc::O_TMPFILE == libc::O_TMPFILE && open.nlink() != 0 {
        return Err(refuse("opened with O_TMPFILE and named later").but(BY_CRIU));
    }
    named(link, open, allowed.ghost_limit).map(OpenOn::Named)
}

/// The name of a memfd; `None` if it is none. A real file called like that has a name, a memfd
/// never had one.
pub(crate) fn memfd_name(link: &Path, open: &Metadata) -> Option<Result<String, Trouble>> {
    let name = without_deleted(link.as_os_str()).as_bytes().strip_prefix(b"/memfd:")?;
    if open.nlink() != 0 || !open.is_file() {
        return None;
    }
    Some(String::from_utf8(name.to_vec()).map_err(|error| {
        Trouble::new(String::from_utf8_lossy(error.as_bytes()), "the memfd's name is not UTF-8")
    }))
}

/// The same of the descriptor that `way` (under /proc) leads to: its file system knows more than its
/// path.
pub(crate) fn open_at(
    way: &Path,
    link: &Path,
    open: &Metadata,
    flags: u32,
    allowed: Allowed,
) -> Result<OpenOn, Trouble> {
    match open_on(link, open, flags, allowed) {
        Err(trouble) => Err(by_file_system(way).unwrap_or(trouble)),
        Ok(OpenOn::Named(Named::Ghost(_))) if let Some(trouble) = by_file_system(way) => {
            Err(trouble)
        }
        other => other,
    }
}

/// What is refused because of the file system it is on, if its path does not name it: the content of
/// such a file is not what its bytes say.
pub(crate) fn by_file_system(way: &Path) -> Option<Trouble> {
    let kind = statfs(way).ok()?.filesystem_type().0;
    let (_, reason) = NO_CONTENT.iter().find(|(magic, _)| *magic == kind)?;
    let shown = std::fs::read_link(way).ok()?.to_string_lossy().into_owned();
    Some(Trouble::new(shown, *reason))
}

/// linux/magic.h.
const NO_CONTENT: &[(i64, &str)] = &[
    (0x1980_0202, "a POSIX message queue (mq_open)"),
    (0x5345_434d, "secret memory (memfd_secret): nobody else may read it"),
    (0x0000_9fa0, "a file of /proc that is gone"),
    (0x6265_6572, "a file of /sys that is gone"),
    (0x6367_7270, "a file of a cgroup that is gone"),
    (0x0027_e0eb, "a file of a cgroup that is gone"),
    (0x6462_6720, "a file of debugfs that is gone"),
    (0x7472_6163, "a file of tracefs that is gone"),
];

fn anonymous(shown: &str, name: &str) -> Result<OpenOn, Trouble> {
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let reason = match name {
        "eventfd" => return Ok(OpenOn::EventFd),
        "eventpoll" => return Ok(OpenOn::Epoll),
        "signalfd" => return Ok(OpenOn::SignalFd),
        "timerfd" => return Ok(OpenOn::TimerFd),
        "inotify" => return Ok(OpenOn::Inotify),
        "pidfd" => return Ok(OpenOn::PidFd),
        "fanotify" => return Ok(OpenOn::Fanotify),
        "io_uring" => "io_uring: requests in flight belong to this kernel",
        "userfaultfd" => "userfaultfd: its memory is served by its holder",
        "perf_event" => "perf events count on this CPU",
        name if name.starts_with("bpf") => "a BPF object of this kernel",
        name if name.starts_with("kvm") => "a virtual machine of this kernel (KVM)",
        _ => "a kernel object that is not known here",
    };
    Err(Trouble::new(shown, reason))
}

/// Major numbers of Documentation/admin-guide/devices.txt.
fn terminal(shown: &str, rdev: u64) -> Result<OpenOn, Trouble> {
    match (major(rdev), minor(rdev)) {
        (4 | 5 | 136..=143, _) => Ok(OpenOn::Tty),
        (major, minor) => Err(Trouble::new(shown, format!("the device {major}:{minor}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

    use nix::sys::epoll::{Epoll, EpollCreateFlags};
    use nix::sys::eventfd::EventFd;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    const ALLOWED: Allowed = Allowed { ghost_limit: 0 };

    fn judged(fd: BorrowedFd, flags: i32, allowed: Allowed) -> Result<OpenOn, Trouble> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let link = std::fs::read_link(&path).expect("own descriptor");
        let open = std::fs::metadata(&path).expect("own descriptor");
        open_on(&link, &open, flags.cast_unsigned(), allowed)
    }

    #[test]
    fn kernel_objects_are_told_apart() {
        let event = EventFd::new().expect("eventfd");
        assert_eq!(judged(event.as_fd(), 2, ALLOWED), Ok(OpenOn::EventFd));
        let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
        assert_eq!(judged(epoll.0.as_fd(), 2, ALLOWED), Ok(OpenOn::Epoll));
        let memfd = memfd_create("a name", MFdFlags::empty()).expect("memfd");
        assert_eq!(judged(memfd.as_fd(), 2, ALLOWED), Ok(OpenOn::Memfd("a name".into())));
        let trouble = anonymous("anon_inode:[perf_event]", "[perf_event]").expect_err("refused");
        assert_eq!(trouble.place, "anon_inode:[perf_event]");
    }

    #[test]
    fn pipes_are_carried_unless_they_keep_packets() {
        let (read, write) = std::io::pipe().expect("a pipe");
        assert!(matches!(judged(read.as_fd(), 0, ALLOWED), Ok(OpenOn::Pipe(1..))));
        let packets = libc::O_WRONLY | libc::O_DIRECT;
        let trouble = judged(write.as_fd(), packets, ALLOWED).expect_err("packets");
        assert!(trouble.reason.contains("packet"), "{trouble:?}");
    }

    #[test]
    fn devices_other_than_memory_and_terminals_are_refused() {
        let null = std::fs::File::open("/dev/null").expect("null");
        let carried = Ok(OpenOn::Named(Named::Path("/dev/null".into())));
        assert_eq!(judged(null.as_fd(), 0, ALLOWED), carried);
        assert_eq!(terminal("/dev/pts/3", libc::makedev(136, 3)), Ok(OpenOn::Tty));
        assert_eq!(terminal("/dev/ptmx", libc::makedev(5, 2)), Ok(OpenOn::Tty));
        assert!(terminal("/dev/kvm", libc::makedev(10, 232)).is_err());
    }

    #[test]
    fn namespaces_and_bare_paths_are_refused() {
        let open = std::fs::File::open("/proc/self/ns/net").expect("a namespace");
        assert_eq!(judged(open.as_fd(), 0, ALLOWED).expect_err("ns").reason, "a namespace");
        let root = std::fs::File::open("/").expect("root");
        let carried = Ok(OpenOn::Named(Named::Path("/".into())));
        assert_eq!(judged(root.as_fd(), libc::O_PATH, ALLOWED), carried);
        let nameless = EventFd::new().expect("eventfd");
        let trouble = judged(nameless.as_fd(), libc::O_PATH, ALLOWED).expect_err("no path");
        assert!(trouble.reason.contains("absolute"), "{trouble:?}");
    }
}
