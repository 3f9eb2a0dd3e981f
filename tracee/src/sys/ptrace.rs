//! ptrace(2), one function a request. All of them obey only the thread that seized the task.

use libc::{c_long, c_uint};
use nix::errno::Errno;

use crate::regs::Regs;

/// `PTRACE_EVENT_STOP` (linux/ptrace.h, Linux 3.4).
pub(crate) const EVENT_STOP: i32 = 128;
/// `PTRACE_EVENT_EXEC`.
pub(crate) const EVENT_EXEC: i32 = 4;
/// `PTRACE_O_TRACESYSGOOD`: system call stops carry bit 0x80.
pub(crate) const O_TRACESYSGOOD: i32 = 1;
/// `PTRACE_O_TRACEEXEC`.
pub(crate) const O_TRACEEXEC: i32 = 1 << EVENT_EXEC;
/// `PTRACE_O_EXITKILL` (Linux 3.8): the tracee dies with its tracer.
pub(crate) const O_EXITKILL: i32 = 1 << 20;
/// `PTRACE_O_SUSPEND_SECCOMP` (Linux 4.3): injected calls pass the task's own filters.
pub(crate) const O_SUSPEND_SECCOMP: i32 = 1 << 21;
/// The signal number of a system call stop under [`O_TRACESYSGOOD`].
pub(crate) const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// `NT_PRSTATUS` and `NT_X86_XSTATE` (linux/elf.h).
const NT_PRSTATUS: usize = 1;
const NT_X86_XSTATE: usize = 0x202;
/// `PTRACE_GETSIGMASK`, `PTRACE_SETSIGMASK` (Linux 3.11), `PTRACE_GET_RSEQ_CONFIGURATION` (5.13).
const GETSIGMASK: c_uint = 0x420a;
const SETSIGMASK: c_uint = 0x420b;
const GET_RSEQ_CONFIGURATION: c_uint = 0x420f;
/// Linux 4.4 and 4.16.
const SECCOMP_GET_FILTER: c_uint = 0x420c;
const SECCOMP_GET_METADATA: c_uint = 0x420d;
const GET_SYSCALL_USER_DISPATCH_CONFIG: c_uint = 0x4211;

/// `struct ptrace_rseq_configuration`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct RseqConfiguration {
    pub(crate) area: u64,
    pub(crate) size: u32,
    pub(crate) signature: u32,
    pub(crate) flags: u32,
    pad: u32,
}

/// `struct ptrace_peeksiginfo_args`.
#[repr(C)]
struct PeekSiginfo {
    offset: u64,
    flags: u32,
    count: i32,
}

const _: () = assert!(size_of::<RseqConfiguration>() == 24);
const _: () = assert!(size_of::<PeekSiginfo>() == 16);
const _: () = assert!(size_of::<libc::siginfo_t>() == 128);
const _: () = assert!(size_of::<Regs>() == size_of::<libc::user_regs_struct>());

/// # Safety
/// `addr` and `data` must be what `request` wants; whatever they point to must be live and large
/// enough for what the kernel reads or writes there.
unsafe fn request(request: c_uint, tid: i32, addr: usize, data: usize) -> nix::Result<c_long> {
    // SAFETY: the caller's promise.
    Errno::result(unsafe { libc::ptrace(request, tid, addr, data) })
}

/// A request whose arguments are numbers.
fn plain(kind: c_uint, tid: i32, data: i32) -> nix::Result<()> {
    // SAFETY: the requests passed here (SEIZE, INTERRUPT, CONT, SYSCALL, DETACH, SETOPTIONS) take
    // `data` as a number and touch no memory of ours.
    unsafe { request(kind, tid, 0, data.cast_unsigned() as usize) }.map(drop)
}

/// `PTRACE_SEIZE`: become the tracer without stopping the task.
pub(crate) fn seize(tid: i32, options: i32) -> nix::Result<()> {
    plain(libc::PTRACE_SEIZE, tid, options)
}

/// `PTRACE_INTERRUPT`: at least one more stop is to come.
pub(crate) fn interrupt(tid: i32) -> nix::Result<()> {
    plain(libc::PTRACE_INTERRUPT, tid, 0)
}

/// `PTRACE_CONT`, delivering `signal` if that is what the task stopped for.
pub(crate) fn cont(tid: i32, signal: i32) -> nix::Result<()> {
    plain(libc::PTRACE_CONT, tid, signal)
}

/// `PTRACE_SYSCALL`: run to the next entry into or exit from a system call.
pub(crate) fn syscall(tid: i32, signal: i32) -> nix::Result<()> {
    plain(libc::PTRACE_SYSCALL, tid, signal)
}

/// `PTRACE_DETACH`.
pub(crate) fn detach(tid: i32, signal: i32) -> nix::Result<()> {
    plain(libc::PTRACE_DETACH, tid, signal)
}

/// `PTRACE_SETOPTIONS`.
pub(crate) fn set_options(tid: i32, options: i32) -> nix::Result<()> {
    plain(libc::PTRACE_SETOPTIONS, tid, options)
}

/// Reads a register set into `into`; returns how many bytes the kernel has.
fn get_set(tid: i32, set: usize, into: &mut [u8]) -> nix::Result<usize> {
    let mut iov = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: `iov` describes `into`, which stays borrowed for the call.
    unsafe { request(libc::PTRACE_GETREGSET, tid, set, &raw mut iov as usize) }?;
    Ok(iov.iov_len)
}

fn set_set(tid: i32, set: usize, from: &[u8]) -> nix::Result<()> {
    let iov = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    // SAFETY: SETREGSET only reads the bytes `iov` describes, which stay borrowed for the call.
    unsafe { request(libc::PTRACE_SETREGSET, tid, set, &raw const iov as usize) }.map(drop)
}

/// The general registers.
pub(crate) fn regs(tid: i32) -> nix::Result<Regs> {
    let mut regs = Regs::default();
    let iov = libc::iovec { iov_base: (&raw mut regs).cast(), iov_len: size_of::<Regs>() };
    // SAFETY: `regs` is a live C structure of exactly the size given; any bits are valid in it.
    unsafe { request(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS, &raw const iov as usize) }?;
    Ok(regs)
}

/// Sets the general registers.
pub(crate) fn set_regs(tid: i32, regs: &Regs) -> nix::Result<()> {
    let iov = libc::iovec {
        iov_base: std::ptr::from_ref(regs).cast_mut().cast(),
        iov_len: size_of::<Regs>(),
    };
    // SAFETY: SETREGSET only reads `regs`, a live C structure of exactly the size given.
    unsafe { request(libc::PTRACE_SETREGSET, tid, NT_PRSTATUS, &raw const iov as usize) }.map(drop)
}

/// The extended state in the XSAVE area's standard format; returns how much of `into` is valid.
pub(crate) fn xstate(tid: i32, into: &mut [u8]) -> nix::Result<usize> {
    get_set(tid, NT_X86_XSTATE, into)
}

/// Sets the extended state.
pub(crate) fn set_xstate(tid: i32, from: &[u8]) -> nix::Result<()> {
    set_set(tid, NT_X86_XSTATE, from)
}

/// The blocked signals; during sigsuspend(2) and its like, those to be blocked after it.
pub(crate) fn signal_mask(tid: i32) -> nix::Result<u64> {
    let mut mask = 0_u64;
    // SAFETY: `mask` is the 8 bytes announced.
    unsafe { request(GETSIGMASK, tid, size_of::<u64>(), &raw mut mask as usize) }?;
    Ok(mask)
}

/// Sets the blocked signals. SIGKILL and SIGSTOP stay deliverable whatever is asked.
pub(crate) fn set_signal_mask(tid: i32, mask: u64) -> nix::Result<()> {
    // SAFETY: the kernel reads the 8 bytes announced.
    unsafe { request(SETSIGMASK, tid, size_of::<u64>(), &raw const mask as usize) }.map(drop)
}

/// The signal a task in signal-delivery-stop is about to get.
pub(crate) fn siginfo(tid: i32) -> nix::Result<[u8; 128]> {
    let mut info = [0_u8; 128];
    // SAFETY: a siginfo_t is 128 bytes (asserted above).
    unsafe { request(libc::PTRACE_GETSIGINFO, tid, 0, info.as_mut_ptr() as usize) }?;
    Ok(info)
}

/// The pending signals of the thread, or (`shared`) of the whole process, oldest first.
pub(crate) fn pending(tid: i32, shared: bool) -> nix::Result<Vec<[u8; 128]>> {
    const PORTION: usize = 32;
    let mut all = Vec::new();
    loop {
        let mut portion = [[0_u8; 128]; PORTION];
        // PTRACE_PEEKSIGINFO_SHARED is flag 1.
        let args = PeekSiginfo {
            offset: all.len() as u64,
            flags: u32::from(shared),
            count: i32::try_from(PORTION).expect("a small constant"),
        };
        // SAFETY: the kernel reads `args` and writes at most `count` entries of 128 bytes.
        let got = unsafe {
            request(
                libc::PTRACE_PEEKSIGINFO,
                tid,
                &raw const args as usize,
                portion.as_mut_ptr() as usize,
            )
        }?;
        let got = usize::try_from(got).unwrap_or(0);
        all.extend_from_slice(&portion[..got]);
        if got < PORTION {
            return Ok(all);
        }
    }
}

/// The seccomp filter of this number, the oldest being zero; ENOENT if there is none.
pub(crate) fn seccomp_filter(tid: i32, number: usize) -> nix::Result<Vec<u8>> {
    // SAFETY: without room the kernel counts the instructions and writes nothing.
    let count = unsafe { request(SECCOMP_GET_FILTER, tid, number, 0) }?;
    let mut program = vec![0_u64; usize::try_from(count).unwrap_or(0)];
    let into = program.as_mut_ptr() as usize;
    // SAFETY: `program` has room for as many instructions of eight bytes as were counted, and a filter
    // never changes; any bits are valid in it.
    unsafe { request(SECCOMP_GET_FILTER, tid, number, into) }?;
    Ok(program.iter().flat_map(|instruction| instruction.to_ne_bytes()).collect())
}

/// SECCOMP_FILTER_FLAG_LOG.
pub(crate) const SECCOMP_LOG: u64 = 2;

/// Its flags: `struct seccomp_metadata` is two words, the number and these.
pub(crate) fn seccomp_flags(tid: i32, number: usize) -> nix::Result<u64> {
    let mut metadata = [number as u64, 0];
    let (size, into) = (size_of_val(&metadata), metadata.as_mut_ptr() as usize);
    // SAFETY: `metadata` is live and of the size announced; any bits are valid in it.
    unsafe { request(SECCOMP_GET_METADATA, tid, size, into) }?;
    Ok(metadata[1])
}

/// The mode of PR_SET_SYSCALL_USER_DISPATCH: `struct ptrace_sud_config`, of which it is the first of
/// four words.
pub(crate) fn dispatch_mode(tid: i32) -> nix::Result<u64> {
    let mut config = [0_u64; 4];
    let size = size_of_val(&config);
    let into = config.as_mut_ptr() as usize;
    // SAFETY: `config` is live, of the size announced; any bits are valid in it.
    unsafe { request(GET_SYSCALL_USER_DISPATCH_CONFIG, tid, size, into) }?;
    Ok(config[0])
}

/// The rseq(2) registration; an area of zero means none.
pub(crate) fn rseq(tid: i32) -> nix::Result<RseqConfiguration> {
    let mut config = RseqConfiguration::default();
    let size = size_of::<RseqConfiguration>();
    // SAFETY: `config` is a live C structure of the size announced; any bits are valid in it.
    unsafe { request(GET_RSEQ_CONFIGURATION, tid, size, &raw mut config as usize) }?;
    Ok(config)
}
