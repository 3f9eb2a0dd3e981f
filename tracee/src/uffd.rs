//! userfaultfd(2) of another process: its missing pages, and the changes to its mappings, are told
//! to us, and wait for us.
//!
//! # Who waits for whom
//!
//! - A thread that touches a missing page sleeps until somebody copies that page
//!   ([`Uffd::copy`], [`Uffd::zero`], [`Uffd::poison`]) or wakes it ([`Uffd::wake`]; it then tries
//!   again, and a *new* fault is told if the page is still missing). It can be killed. A thread that
//!   faulted in user mode can also be stopped, made to work for us and let go, and faults again; one
//!   that faulted inside a system call (write(2) from a missing page) cannot be stopped by ptrace
//!   until it is served. So serve first, and hold nobody up by holding such a thread.
//! - Whoever changes mappings (fork, mremap, munmap, madvise) sleeps until its event has been *read*,
//!   not until it has been acted upon. All of those events must be read once they were asked for.
//! - While such an event waits to be read, no page can be copied into that address space at all:
//!   [`Copied::Again`] with no progress means *read the events, then try again*. A thread that only
//!   copies and never reads waits for ever.
//! - **A thread of ours that reads or writes a missing page of the task by process_vm_readv(2),
//!   process_vm_writev(2) or /proc/PID/mem raises a fault like anybody else,** and sleeps until
//!   somebody else serves it: if it is the one who serves, for ever. Missing pages are written by
//!   [`Uffd::copy`] and nothing else; only where it answers [`Copied::AlreadyThere`] may they be
//!   overwritten otherwise.
//! - **The last close of a userfaultfd makes every missing page read as zeros, silently.** So does
//!   [`Uffd::unregister`] of a range in which pages are missing. [`crate::Keeper`] is there for that.
//!
//! # In which order
//!
//! The kernel hands out waiting faults before waiting events, whatever came first. But a fault of a
//! page that another thread has just moved or dropped must be answered as the page is *now*: so
//! [`Uffd::read_events`] takes everything there is and puts the changes first.
//!
//! After [`UffdEvent::Remove`] the range reads as zeros, whatever was copied there up to the moment
//! the event was read: the kernel drops it after that. (In a mapping of a shared object the event
//! comes for MADV_DONTNEED, which changes no content, as well as for MADV_REMOVE, which does, and
//! nothing tells which: what a program may drop of shared memory had better not be missing.)
//! After [`UffdEvent::Remap`] the pages that were missing are missing at the new place; a
//! [`UffdEvent::Unmap`] of the old place may follow. execve(2) and exit tell nothing:
//! [`Copied::TaskGone`] is how one learns of it.
//!
//! The child of a fork misses what its parent missed, and tells through a descriptor of its own,
//! which the event carries. At that moment the child does not even have a number yet.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use pages::{ByteCount, PageCount, PageIndex, PageRange, VirtAddr};

use crate::proc::children::shown_as;
use crate::proc::status::Status;
use crate::sys::uffd::{self as sys, Event, Range};
use crate::{Error, HostPid, Result, Stopped, gate_call, host};

bitflags::bitflags! {
    /// `UFFD_FEATURE_*` (linux/userfaultfd.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// Write faults on protected pages can be told from others (Linux 5.7).
        const PAGEFAULT_FLAG_WP = 1 << 0;
        /// fork(2) is told (Linux 4.11; whoever asks for it needs CAP_SYS_PTRACE).
        const EVENT_FORK = 1 << 1;
        /// mremap(2) is told (Linux 4.11).
        const EVENT_REMAP = 1 << 2;
        /// madvise(2) that drops pages is told (Linux 4.11).
        const EVENT_REMOVE = 1 << 3;
        /// Missing pages of hugetlbfs (Linux 4.11).
        const MISSING_HUGETLBFS = 1 << 4;
        /// Missing pages of shared memory (Linux 4.11).
        const MISSING_SHMEM = 1 << 5;
        /// munmap(2) is told (Linux 4.11).
        const EVENT_UNMAP = 1 << 6;
        /// Faults become SIGBUS (Linux 4.14).
        const SIGBUS = 1 << 7;
        /// Faults tell the thread (Linux 4.14).
        const THREAD_ID = 1 << 8;
        /// Minor faults of hugetlbfs (Linux 5.13).
        const MINOR_HUGETLBFS = 1 << 9;
        /// Minor faults of shared memory (Linux 5.14).
        const MINOR_SHMEM = 1 << 10;
        /// Faults tell the address, not only the page (Linux 5.18).
        const EXACT_ADDRESS = 1 << 11;
        /// Write protection of shared memory and hugetlbfs (Linux 5.19).
        const WP_HUGETLBFS_SHMEM = 1 << 12;
        /// Write protection of anonymous pages that do not exist yet (Linux 6.4).
        const WP_UNPOPULATED = 1 << 13;
        /// Pages that cannot be had any more (Linux 6.6).
        const POISON = 1 << 14;
        /// Writes to protected pages are noted and go on, instead of being told (Linux 6.7).
        const WP_ASYNC = 1 << 15;
        /// Pages moved within an address space (Linux 6.8).
        const MOVE = 1 << 16;
    }
}

impl Features {
    /// What a process needs whose pages come after it: missing pages, and every change told.
    pub const LAZY: Self = Self::EVENT_FORK
        .union(Self::EVENT_REMAP)
        .union(Self::EVENT_REMOVE)
        .union(Self::EVENT_UNMAP)
        .union(Self::MISSING_SHMEM)
        .union(Self::THREAD_ID);
    /// What telling written pages from others needs.
    pub const TRACK: Self = Self::PAGEFAULT_FLAG_WP
        .union(Self::WP_HUGETLBFS_SHMEM)
        .union(Self::WP_UNPOPULATED)
        .union(Self::WP_ASYNC);

    /// What the running kernel offers; nothing at all where userfaultfd is missing or forbidden.
    pub fn of_this_kernel() -> Self {
        static OFFERED: OnceLock<Features> = OnceLock::new();
        *OFFERED.get_or_init(|| {
            // Asking is final for a descriptor, so this one of our own is for asking alone.
            let asked = sys::own(libc::O_CLOEXEC | sys::USER_MODE_ONLY);
            let offered = asked.and_then(|fd| sys::api(fd.as_fd(), 0));
            offered.map_or(Self::empty(), Self::from_bits_truncate)
        })
    }
}

bitflags::bitflags! {
    /// What is watched in a range: `UFFDIO_REGISTER_MODE_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Mode: u64 {
        /// Pages that are not there. Private mappings of files cannot be watched for it.
        const MISSING = 1 << 0;
        /// Writes to protected pages.
        const WP = 1 << 1;
        /// Pages of a shared object that are there, but not in this mapping of it.
        const MINOR = 1 << 2;
    }
}

/// Whose faults are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// Those inside system calls too. The task needs CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd.
    All,
    /// Only those of the program's own instructions; a system call that meets one answers EFAULT.
    /// Enough where no fault is ever told ([`Features::WP_ASYNC`]).
    UserOnly,
}

/// What became of pages that were to be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Copied {
    /// All of them are there, and whoever waited for one runs on.
    Installed,
    /// The first of them was there already; nothing was done. Whoever put it there has woken those
    /// who waited, unless that was before they began to: [`Uffd::wake`] is cheap.
    AlreadyThere,
    /// The first so many were installed. None at all: a change of the mappings waits to be read
    /// ([`Uffd::read_events`]). Otherwise the next one stopped it: go on from there.
    Again(PageCount),
    /// The first is (no longer) mapped and registered: unmapped, moved, or replaced.
    NotMapped,
    /// The address space is gone: exit, or execve(2).
    TaskGone,
}

/// What happened in the address space.
#[derive(Debug)]
pub enum UffdEvent {
    /// A thread sleeps until this page is there.
    Pagefault {
        /// Which.
        page: PageIndex,
        /// It wants to write.
        write: bool,
        /// The thread, as its own PID namespace counts it.
        tid: u32,
    },
    /// The address space was copied; the child misses the same pages.
    Fork {
        /// Tells of the child's.
        child: Uffd,
    },
    /// Pages moved, with what is missing of them.
    Remap {
        /// From here.
        from: PageRange,
        /// To here.
        to: PageIndex,
    },
    /// Pages are about to be dropped: they read as zeros from now on.
    Remove {
        /// Which.
        range: PageRange,
    },
    /// Nothing is mapped there any more.
    Unmap {
        /// Where.
        range: PageRange,
    },
}

/// The userfaultfd of one address space. May be used from any thread; close it last
/// ([the hard rules](self)).
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
    features: Features,
}

impl Uffd {
    /// Has the task make a userfaultfd, fetches it and closes it there. Nothing is watched yet.
    ///
    /// `gate` is a `syscall` instruction of the task; the thread is on loan
    /// ([`Borrowed`](crate::Borrowed)) or of our own making, and must share descriptors with the main
    /// thread of its process. Of the features all must be offered; asking for
    /// [`Features::EVENT_FORK`] takes CAP_SYS_PTRACE of us.
    pub fn create_in(
        task: &mut Stopped,
        gate: VirtAddr,
        faults: Faults,
        features: Features,
    ) -> Result<Self> {
        let lacks = features - Features::of_this_kernel();
        if !lacks.is_empty() {
            return Err(Error::UffdLacks { lacks });
        }
        let only = if faults == Faults::UserOnly { sys::USER_MODE_ONLY } else { 0 };
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | only;
        let pid = task.tid();
        let process = host::pidfd_open(shown_as(HostPid(Status::read(pid)?.tgid)))?;
        let flags = u64::from(flags.cast_unsigned());
        let refused = |act| move |errno| Error::Injected { act, pid, errno };
        let number = gate_call(task, gate, libc::SYS_userfaultfd, &[flags])?
            .map_err(refused("make a userfaultfd"))?;
        let fd = host::pidfd_getfd(&process, i32::try_from(number).unwrap_or(-1));
        let closed = gate_call(task, gate, libc::SYS_close, &[number])?;
        closed.map_err(refused("close a userfaultfd"))?;
        let fd = fd?;
        sys::api(fd.as_fd(), features.bits())
            .map_err(|errno| Error::Own { act: "agree on userfaultfd features", errno })?;
        Ok(Self { fd, features })
    }

    /// A userfaultfd of which nothing is known but that it is one.
    pub fn adopt(fd: OwnedFd) -> Self {
        Self { fd, features: Features::empty() }
    }

    /// The features it was made with; a child's are its parent's.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Watches a range, which must be mapped throughout. What was registered before stays.
    pub fn register(&self, range: PageRange, mode: Mode) -> Result<()> {
        sys::register(self.fd.as_fd(), bytes_of(range), mode.bits()).map_err(own("watch pages"))
    }

    /// No longer watches a range: **what is missing of it reads as zeros from now on.** Those who
    /// wait there are woken.
    pub fn unregister(&self, range: PageRange) -> Result<()> {
        sys::unregister(self.fd.as_fd(), bytes_of(range)).map_err(own("stop watching pages"))
    }

    /// Installs missing pages and wakes who waits for them, each page at once or not at all.
    /// `bytes` must be exactly as long as `range`.
    pub fn copy(&self, range: PageRange, bytes: &[u8]) -> Result<Copied> {
        if bytes.len() as u64 != range.bytes().0 {
            return Err(own("install pages")(Errno::EMSGSIZE));
        }
        let done = sys::copy(self.fd.as_fd(), range.start_addr().0, bytes, 0);
        verdict(done).map_err(own("install pages"))
    }

    /// Installs pages of zeros; 64 times cheaper than copying them.
    pub fn zero(&self, range: PageRange) -> Result<Copied> {
        verdict(sys::zero(self.fd.as_fd(), bytes_of(range))).map_err(own("install zero pages"))
    }

    /// Makes missing pages unusable: whoever touches one gets SIGBUS, or EFAULT from a system call
    /// ([`Features::POISON`]). Copying over it later is possible. Those who wait are woken.
    pub fn poison(&self, range: PageRange) -> Result<Copied> {
        verdict(sys::poison(self.fd.as_fd(), bytes_of(range))).map_err(own("poison pages"))
    }

    /// Has those who wait for a page of the range try again.
    pub fn wake(&self, range: PageRange) -> Result<()> {
        sys::wake(self.fd.as_fd(), bytes_of(range)).map_err(own("wake waiters"))
    }

    /// Protects pages from being written unnoticed, or lifts that (and wakes who waits for it). The
    /// range must be registered with [`Mode::WP`].
    pub fn write_protect(&self, range: PageRange, protect: bool) -> Result<Copied> {
        let done = sys::write_protect(self.fd.as_fd(), bytes_of(range), protect);
        verdict((0, done)).map_err(own("write-protect pages"))
    }

    /// False once no process has the address space any more.
    pub fn is_alive(&self) -> bool {
        // Lifting a protection nobody has set changes nothing, but looks for the address space.
        let last = Range { start: 0x7fff_ffff_e000, len: 4096 };
        sys::write_protect(self.fd.as_fd(), last, false) != Err(Errno::ESRCH)
    }

    /// Adds everything that waits to be read, without waiting for more; changes before faults
    /// ([why](self)). True if there was anything.
    pub fn read_events(&self, into: &mut Vec<UffdEvent>) -> Result<bool> {
        let begin = into.len();
        loop {
            let read = sys::read(self.fd.as_fd(), |event| into.extend(self.event(event)));
            match read {
                Ok(()) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(own("read what a process does to its memory")(errno)),
            }
        }
        into[begin..].sort_by_key(|event| matches!(event, UffdEvent::Pagefault { .. }));
        Ok(into.len() > begin)
    }

    fn event(&self, event: Event) -> Option<UffdEvent> {
        /// `UFFD_PAGEFAULT_FLAG_WRITE`.
        const WRITE: u64 = 1;
        let range = |start, end| PageRange::from_addrs(VirtAddr(start), VirtAddr(end));
        match event {
            Event::Fault { flags, address, tid } => {
                let page = VirtAddr(address).page();
                Some(UffdEvent::Pagefault { page, write: flags & WRITE != 0, tid })
            }
            Event::Fork(fd) => {
                Some(UffdEvent::Fork { child: Self { fd, features: self.features } })
            }
            Event::Remap { from, to, len } => range(from, from.wrapping_add(len))
                .map(|from| UffdEvent::Remap { from, to: VirtAddr(to).page() }),
            Event::Remove { start, end } => {
                range(start, end).map(|range| UffdEvent::Remove { range })
            }
            Event::Unmap { start, end } => {
                range(start, end).map(|range| UffdEvent::Unmap { range })
            }
            // Only what was asked for is told, and all of that is above.
            Event::Unknown => None,
        }
    }
}

impl AsFd for Uffd {
    /// Readable when there is something to read.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Uffd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn own(act: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Own { act, errno }
}

fn bytes_of(range: PageRange) -> Range {
    Range { start: range.start_addr().0, len: range.bytes().0 }
}

/// The kernel's answer to an attempt to install pages: bytes done (or minus an errno), and errno.
fn verdict((done, result): (i64, nix::Result<()>)) -> nix::Result<Copied> {
    match result {
        Ok(()) => Ok(Copied::Installed),
        Err(Errno::EAGAIN) => {
            let done = ByteCount(u64::try_from(done).unwrap_or(0));
            Ok(Copied::Again(PageCount(done.0 >> pages::PAGE_SHIFT)))
        }
        Err(Errno::EEXIST) => Ok(Copied::AlreadyThere),
        Err(Errno::ENOENT) => Ok(Copied::NotMapped),
        Err(Errno::ESRCH) => Ok(Copied::TaskGone),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_words() {
        let eagain = -i64::from(libc::EAGAIN);
        let table = [
            ((8192, Ok(())), Ok(Copied::Installed)),
            ((8192, Err(Errno::EAGAIN)), Ok(Copied::Again(PageCount(2)))),
            ((eagain, Err(Errno::EAGAIN)), Ok(Copied::Again(PageCount(0)))),
            ((0, Err(Errno::EAGAIN)), Ok(Copied::Again(PageCount(0)))),
            ((-17, Err(Errno::EEXIST)), Ok(Copied::AlreadyThere)),
            ((-2, Err(Errno::ENOENT)), Ok(Copied::NotMapped)),
            ((0, Err(Errno::ESRCH)), Ok(Copied::TaskGone)),
            ((-14, Err(Errno::EFAULT)), Err(Errno::EFAULT)),
        ];
        for (answer, word) in table {
            assert_eq!(verdict(answer), word, "{answer:?}");
        }
    }

    #[test]
    fn this_kernel_says_what_it_offers() {
        let offered = Features::of_this_kernel();
        println!("this kernel offers {offered:?}");
        assert_eq!(offered, Features::of_this_kernel());
    }
}
