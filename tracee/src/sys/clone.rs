//! clone3(2) of a child that becomes the seed program.

use std::os::fd::RawFd;

use nix::errno::Errno;

/// `struct clone_args` (linux/sched.h), version 1 (Linux 5.5): the one with `set_tid`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
}
/// `CLONE_ARGS_SIZE_VER1`.
pub(crate) const CLONE_ARGS_SIZE: usize = size_of::<CloneArgs>();
const _: () = assert!(CLONE_ARGS_SIZE == 80);

impl CloneArgs {
    /// As the kernel reads it.
    pub(crate) fn bytes(&self) -> [u8; CLONE_ARGS_SIZE] {
        let words = [
            self.flags,
            self.pidfd,
            self.child_tid,
            self.parent_tid,
            self.exit_signal,
            self.stack,
            self.stack_size,
            self.tls,
            self.set_tid,
            self.set_tid_size,
        ];
        let mut bytes = [0; CLONE_ARGS_SIZE];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// What the child does between clone3 and execveat. All numbers above the targets of `moves`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child<'a> {
    /// The program to become.
    pub(crate) program: RawFd,
    /// Readable once the parent has seized us; its end of file means the parent has died.
    pub(crate) go: RawFd,
    /// Gets the errno of what failed, as four bytes.
    pub(crate) report: RawFd,
    /// The parent's ends of these pipes: as long as we hold them too, neither pipe ever ends.
    pub(crate) parents: [RawFd; 2],
    /// `(from, to)`: descriptors to keep, and under which numbers.
    pub(crate) moves: &'a [(RawFd, RawFd)],
}

/// Makes the child; returns its pid as this process sees it. All signals stay blocked in the child.
pub(crate) fn spawn(flags: u64, set_tid: Option<i32>, child: Child<'_>) -> nix::Result<i32> {
    let tid = [set_tid.unwrap_or(0)];
    let args = CloneArgs {
        flags,
        exit_signal: libc::SIGCHLD as u64,
        set_tid: if set_tid.is_some() { tid.as_ptr() as u64 } else { 0 },
        set_tid_size: u64::from(set_tid.is_some()),
        ..CloneArgs::default()
    };
    let mut old = 0_u64;
    // SAFETY: the masks are live words of the size given. clone3 without CLONE_VM and without a
    // stack returns twice like fork(2), the second time in a copy of this address space with this
    // one thread; `run_child` is written for that: it makes system calls only, allocates nothing,
    // takes no lock (another thread may have held any at the moment of the copy), never returns.
    // No handler of this program can run in the child either, since everything is blocked.
    unsafe {
        let all = u64::MAX;
        sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        let result = libc::syscall(libc::SYS_clone3, &raw const args, CLONE_ARGS_SIZE);
        if result == 0 {
            run_child(child);
        }
        let result = Errno::result(result);
        sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut());
        result.map(|pid| i32::try_from(pid).unwrap_or(i32::MAX))
    }
}

/// # Safety
/// `new` must be readable, `old` null or writable.
unsafe fn sigmask(how: i32, new: *const u64, old: *mut u64) {
    // SAFETY: the caller's promise; the call cannot fail with these arguments. The raw call, since
    // the library's refuses to block its own two internal signals.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, old, 8_usize) };
}

/// # Safety
/// Only in the child of `spawn`: replaces the process.
unsafe fn run_child(child: Child<'_>) -> ! {
    // SAFETY: system calls on numbers and on memory that lives in this frame or in constants.
    unsafe {
        for fd in child.parents {
            libc::syscall(libc::SYS_close, fd);
        }
        let mut byte = 0_u8;
        // Until the parent has seized us, only its death may end us: then read says end of file.
        if libc::syscall(libc::SYS_read, child.go, &raw mut byte, 1) != 1 {
            libc::syscall(libc::SYS_exit_group, 1);
        }
        let failed = become_program(child);
        let errno = failed.to_ne_bytes();
        libc::syscall(libc::SYS_write, child.report, errno.as_ptr(), errno.len());
        loop {
            libc::syscall(libc::SYS_exit_group, 1);
        }
    }
}

/// Returns only if something failed: the errno.
///
/// # Safety
/// As for [`run_child`].
unsafe fn become_program(child: Child<'_>) -> i32 {
    // SAFETY: system calls on numbers, constants, and arrays of this frame.
    unsafe {
        for (from, to) in child.moves {
            if libc::syscall(libc::SYS_dup3, *from, *to, 0) < 0 {
                return errno();
            }
        }
        if libc::syscall(libc::SYS_close_range, 0, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0 {
            return errno();
        }
        for (_, to) in child.moves {
            if libc::syscall(libc::SYS_fcntl, *to, libc::F_SETFD, 0) < 0 {
                return errno();
            }
        }
        let argv = [c"qmig-seed".as_ptr(), std::ptr::null()];
        let envp = [std::ptr::null::<libc::c_char>()];
        libc::syscall(
            libc::SYS_execveat,
            child.program,
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        errno()
    }
}

/// # Safety
/// None beyond being called after a failed call of this thread.
unsafe fn errno() -> i32 {
    // SAFETY: the address of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}
