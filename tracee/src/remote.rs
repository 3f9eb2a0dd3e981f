//! Making a stopped thread call the kernel for us, and putting everything back.
//!
//! Two ways only. [`gate_call`] runs one call at a `syscall` instruction that is there anyway (the
//! vdso has some) and needs no memory in the task. [`Runner`] maps scratch memory with a stub that
//! makes any number of calls from an array: one round trip for all of them.
//!
//! Neither executes with the program's own code, stack or signals involved: the signal mask is
//! closed for the time (see the `shield` module), and a [`Borrowed`] guard keeps the registers.

use nix::errno::Errno;
use pages::{PAGE_SIZE, PageCount, PageRange, VirtAddr};

use crate::host::{SavedAffinity, pin_to_my_cpu};
use crate::regs::Regs;
use crate::shield::{bit, free_mark};
use crate::sys::ptrace::{self, SYSCALL_STOP};
use crate::sys::wait::{Change, wait};
use crate::{Error, HostPid, Result, Stopped, sys};

/// What the kernel answered a call made inside a task.
pub type Answer = std::result::Result<u64, Errno>;

/// One system call to be made inside a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub nr: i64,
    /// Its arguments; those not needed are zero.
    pub args: [u64; 6],
    /// What the kernel answered: a value, or minus an errno.
    pub ret: i64,
}

impl Call {
    /// A call with up to six arguments; more are ignored.
    pub fn new(nr: libc::c_long, args: &[u64]) -> Self {
        let mut all = [0; 6];
        for (place, arg) in all.iter_mut().zip(args) {
            *place = *arg;
        }
        Self { nr, args: all, ret: 0 }
    }

    /// The answer.
    pub fn value(&self) -> Answer {
        answer(self.ret)
    }

    /// The answer, or an error that says what was refused inside which task.
    pub fn expect(&self, act: &'static str, pid: HostPid) -> Result<u64> {
        self.value().map_err(|errno| Error::Injected { act, pid, errno })
    }
}

/// The kernel's answer from `rax`: -4095 to -1 are errors.
fn answer(rax: i64) -> Answer {
    match i32::try_from(rax) {
        Ok(code @ -4095..=-1) => Err(Errno::from_raw(-code)),
        _ => Ok(rax.cast_unsigned()),
    }
}

/// Position independent code: makes `r12` calls from the array at `rbx`, then sends itself signal
/// `r13` until somebody takes the registers away.
const STUB: [u8; 77] = [
    0x4d, 0x85, 0xe4, //                   next:  test r12, r12
    0x74, 0x2a, //                                jz   done
    0x48, 0x8b, 0x03, //                          mov  rax, [rbx]
    0x48, 0x8b, 0x7b, 0x08, //                    mov  rdi, [rbx + 8]
    0x48, 0x8b, 0x73, 0x10, //                    mov  rsi, [rbx + 16]
    0x48, 0x8b, 0x53, 0x18, //                    mov  rdx, [rbx + 24]
    0x4c, 0x8b, 0x53, 0x20, //                    mov  r10, [rbx + 32]
    0x4c, 0x8b, 0x43, 0x28, //                    mov  r8,  [rbx + 40]
    0x4c, 0x8b, 0x4b, 0x30, //                    mov  r9,  [rbx + 48]
    0x0f, 0x05, //                                syscall
    0x48, 0x89, 0x43, 0x38, //                    mov  [rbx + 56], rax
    0x48, 0x83, 0xc3, 0x40, //                    add  rbx, 64
    0x49, 0xff, 0xcc, //                          dec  r12
    0xeb, 0xd1, //                                jmp  next
    0xb8, 0x27, 0x00, 0x00, 0x00, //       done:  mov  eax, 39 (getpid)
    0x0f, 0x05, //                                syscall
    0x89, 0xc7, //                                mov  edi, eax
    0xb8, 0xba, 0x00, 0x00, 0x00, //              mov  eax, 186 (gettid)
    0x0f, 0x05, //                                syscall
    0x89, 0xc6, //                                mov  esi, eax
    0x44, 0x89, 0xea, //                          mov  edx, r13d
    0xb8, 0xea, 0x00, 0x00, 0x00, //              mov  eax, 234 (tgkill)
    0x0f, 0x05, //                                syscall
    0xeb, 0xe2, //                                jmp  done
];
/// Offset of `done`.
const DONE: u64 = 0x2f;
/// Where the stub is when its own signal arrives.
const MARKED: u64 = 0x4b;
/// Where the array of calls begins in the scratch memory.
const ARRAY: usize = 128;
/// Bytes of one call in the array: number, six arguments, answer.
const ENTRY: usize = 64;

const _: () = assert!(STUB.len() <= ARRAY);
const _: () = assert!(STUB[0x2f] == 0xb8 && DONE == 0x2f && STUB[0x4b] == 0xeb && MARKED == 0x4b);

/// Code and scratch memory inside one address space; usable with any held thread of it.
///
/// The scratch memory is three parts: the stub, an array of calls (a quarter), and what
/// [`put`](Self::put) and [`room`](Self::room) give out. Dropping a runner leaves the memory mapped;
/// [`remove`](Self::remove) takes it out.
#[derive(Debug)]
pub struct Runner {
    pid: HostPid,
    scratch: PageRange,
    /// How many calls fit the array.
    most: usize,
    /// What `put` and `room` gave out, as it is or shall be in the task.
    arena: Vec<u8>,
    /// How much of it is in the task already.
    flushed: usize,
}

impl Runner {
    /// Maps `size` bytes of scratch memory (at least a page) through `gate`, at `at` if given, where
    /// nothing may be mapped yet; writes the stub.
    pub fn install(
        task: &mut Stopped,
        gate: VirtAddr,
        at: Option<VirtAddr>,
        size: usize,
    ) -> Result<Self> {
        const RWX: i32 = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let pages = size.max(1).div_ceil(PAGE_SIZE) as u64;
        let fixed = if at.is_some() { libc::MAP_FIXED_NOREPLACE } else { 0 };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
        let args = [
            at.unwrap_or_default().0,
            pages * PAGE_SIZE as u64,
            u64::from(RWX.cast_unsigned()),
            u64::from(flags.cast_unsigned()),
            u64::MAX,
            0,
        ];
        let pid = task.tid();
        let refused = |errno| Error::Injected { act: "map scratch memory", pid, errno };
        let start = gate_call(task, gate, libc::SYS_mmap, &args)?.map_err(refused)?;
        let scratch = PageRange::new(VirtAddr(start).page(), PageCount(pages))
            .ok_or_else(|| refused(Errno::EINVAL))?;
        let runner = Self::around(pid, scratch);
        runner.write(start, &STUB)?;
        Ok(runner)
    }

    /// The runner of `child`, which was forked (without sharing memory) from the task this runner
    /// works in, and so has a copy of the scratch memory at the same place.
    pub fn of_fork(&self, child: &Stopped) -> Self {
        Self::around(child.tid(), self.scratch)
    }

    fn around(pid: HostPid, scratch: PageRange) -> Self {
        let bytes = usize::try_from(scratch.bytes().0).expect("64 bit");
        let most = ((bytes / 4).saturating_sub(ARRAY) / ENTRY).max(1);
        Self { pid, scratch, most, arena: Vec::new(), flushed: 0 }
    }

    /// Makes the calls one after the other, whatever each answers; any number of them (more than
    /// fit the array go in several trips). Leaves the thread's registers clobbered.
    pub fn batch(&mut self, task: &mut Stopped, calls: &mut [Call]) -> Result<()> {
        if calls.is_empty() {
            return self.flush();
        }
        let most = self.most;
        calls.chunks_mut(most).try_for_each(|some| self.trip(task, some))
    }

    /// Makes one call.
    pub fn call(&mut self, task: &mut Stopped, nr: libc::c_long, args: &[u64]) -> Result<Answer> {
        let mut calls = [Call::new(nr, args)];
        self.batch(task, &mut calls)?;
        Ok(calls[0].value())
    }

    fn trip(&mut self, task: &mut Stopped, calls: &mut [Call]) -> Result<()> {
        let mut array = vec![0; calls.len() * ENTRY];
        for (entry, call) in array.chunks_exact_mut(ENTRY).zip(&*calls) {
            let words = std::iter::once(call.nr.cast_unsigned()).chain(call.args);
            for (place, word) in entry.chunks_exact_mut(8).zip(words) {
                place.copy_from_slice(&word.to_le_bytes());
            }
        }
        let at = self.base() + ARRAY as u64;
        self.write_with_arena(at, &array)?;
        let mark = task.raise_shield()?.mark;
        let before = task.regs()?;
        if before.cs != Regs::USER_CS {
            return Err(Error::NotX64 { pid: task.tid() });
        }
        task.set_regs(&Regs {
            rip: self.base(),
            rbx: at,
            r12: calls.len() as u64,
            r13: u64::from(mark.cast_unsigned()),
            // Inside the scratch memory: a new alternate signal stack must not contain it.
            rsp: self.scratch.end_addr().0 - 128,
            orig_rax: Regs::NO_CALL,
            eflags: before.eflags & !(TRAP_FLAG | DIRECTION_FLAG),
            ..before
        })?;
        run_until(task, Until::Marked { stub: self.base() })?;
        self.read(at, &mut array)?;
        for (entry, call) in array.chunks_exact(ENTRY).zip(calls) {
            call.ret = i64::from_le_bytes(entry[56..].try_into().expect("eight bytes"));
        }
        Ok(())
    }

    /// Puts `bytes` into the scratch memory (16-aligned) and tells where they will be. They get
    /// there with the next batch or call, or by [`flush`](Self::flush).
    pub fn put(&mut self, bytes: &[u8]) -> Result<VirtAddr> {
        let at = self.give_out(bytes.len())?;
        self.arena.extend_from_slice(bytes);
        Ok(at)
    }

    /// Reserves `len` zero bytes of the scratch memory, 16-aligned; zeroed like a
    /// [`put`](Self::put).
    pub fn room(&mut self, len: usize) -> Result<VirtAddr> {
        let at = self.give_out(len)?;
        self.arena.resize(self.arena.len() + len, 0);
        Ok(at)
    }

    fn give_out(&mut self, len: usize) -> Result<VirtAddr> {
        let start = self.arena.len().next_multiple_of(16);
        let left = self.arena_size().saturating_sub(start);
        if len > left {
            return Err(Error::ScratchFull { wanted: len, left });
        }
        self.arena.resize(start, 0);
        Ok(VirtAddr(self.arena_base() + start as u64))
    }

    /// How many bytes can still be given out.
    pub fn left(&self) -> usize {
        self.arena_size().saturating_sub(self.arena.len().next_multiple_of(16))
    }

    /// Writes what was put since the last batch.
    pub fn flush(&mut self) -> Result<()> {
        if self.flushed < self.arena.len() {
            let at = self.arena_base() + self.flushed as u64;
            self.write(at, &self.arena[self.flushed..])?;
            self.flushed = self.arena.len();
        }
        Ok(())
    }

    /// Reads from the task: what calls have written to memory they were given.
    pub fn get(&self, at: VirtAddr, into: &mut [u8]) -> Result<()> {
        self.read(at.0, into)
    }

    /// Forgets everything that was given out.
    pub fn reset(&mut self) {
        self.arena.clear();
        self.flushed = 0;
    }

    /// Where the scratch memory is.
    pub fn scratch(&self) -> PageRange {
        self.scratch
    }

    /// Unmaps the scratch memory, through the gate since no code can unmap itself.
    pub fn remove(self, task: &mut Stopped, gate: VirtAddr) -> Result<()> {
        let args = [self.base(), self.scratch.bytes().0];
        gate_call(task, gate, libc::SYS_munmap, &args)?.map(drop).map_err(|errno| Error::Injected {
            act: "unmap scratch memory",
            pid: task.tid(),
            errno,
        })
    }

    fn base(&self) -> u64 {
        self.scratch.start_addr().0
    }

    fn arena_base(&self) -> u64 {
        self.base() + (ARRAY + self.most * ENTRY) as u64
    }

    /// The last bytes are left for the stack pointer to point to.
    fn arena_size(&self) -> usize {
        let used = ARRAY + self.most * ENTRY + 256;
        usize::try_from(self.scratch.bytes().0).expect("64 bit").saturating_sub(used)
    }

    fn write_with_arena(&mut self, at: u64, array: &[u8]) -> Result<()> {
        let fresh = &self.arena[self.flushed..];
        if fresh.is_empty() {
            return self.write(at, array);
        }
        let arena_at = self.arena_base() + self.flushed as u64;
        let len = array.len() + fresh.len();
        match sys::memory::write_two(self.pid.0, [(at, array), (arena_at, fresh)]) {
            Ok(count) if count == len => {
                self.flushed = self.arena.len();
                Ok(())
            }
            Ok(_) => Err(self.memory_error(at, len, Errno::EFAULT)),
            Err(errno) => Err(self.memory_error(at, len, errno)),
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        match sys::memory::write(self.pid.0, at, bytes) {
            Ok(count) if count == bytes.len() => Ok(()),
            Ok(_) => Err(self.memory_error(at, bytes.len(), Errno::EFAULT)),
            Err(errno) => Err(self.memory_error(at, bytes.len(), errno)),
        }
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        match sys::memory::read(self.pid.0, at, into) {
            Ok(count) if count == into.len() => Ok(()),
            Ok(_) => Err(self.memory_error(at, into.len(), Errno::EFAULT)),
            Err(errno) => Err(self.memory_error(at, into.len(), errno)),
        }
    }

    fn memory_error(&self, at: u64, len: usize, errno: Errno) -> Error {
        match errno {
            Errno::ESRCH => Error::Died { pid: self.pid },
            errno => Error::Memory { pid: self.pid, at: VirtAddr(at), len, source: errno.into() },
        }
    }
}

/// eflags: single-step, and string instructions running downwards.
const TRAP_FLAG: u64 = 1 << 8;
const DIRECTION_FLAG: u64 = 1 << 10;

/// The first `syscall` instruction (0f 05) in the code of a vdso that is mapped at `vdso_start`.
pub fn find_gate(vdso_bytes: &[u8], vdso_start: VirtAddr) -> Option<VirtAddr> {
    let offset = vdso_bytes.windows(2).position(|pair| pair == [0x0f, 0x05])?;
    vdso_start.checked_add(offset as u64)
}

fn aim(task: &Stopped, gate: VirtAddr, nr: libc::c_long, args: &[u64]) -> Result<Regs> {
    let before = task.regs()?;
    if before.cs != Regs::USER_CS {
        return Err(Error::NotX64 { pid: task.tid() });
    }
    let Call { args: [rdi, rsi, rdx, r10, r8, r9], .. } = Call::new(nr, args);
    Ok(Regs {
        rip: gate.0,
        rax: nr.cast_unsigned(),
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        orig_rax: Regs::NO_CALL,
        eflags: before.eflags & !TRAP_FLAG,
        ..before
    })
}

/// One system call at a `syscall` instruction that exists in the task: no scratch memory, no signal.
/// Leaves the thread's registers clobbered.
pub fn gate_call(
    task: &mut Stopped,
    gate: VirtAddr,
    nr: libc::c_long,
    args: &[u64],
) -> Result<Answer> {
    /// The kernel's wishes to make a call again (ERESTARTSYS to ERESTARTNOHAND), which it would
    /// see to itself on the way out, had we not taken the registers away.
    const AGAIN: std::ops::RangeInclusive<i64> = -514..=-512;
    task.raise_shield()?;
    loop {
        let regs = aim(task, gate, nr, args)?;
        task.set_regs(&regs)?;
        run_until(task, Until::Syscall)?;
        run_until(task, Until::Syscall)?;
        let rax = task.regs()?.rax.cast_signed();
        if !AGAIN.contains(&rax) {
            return Ok(answer(rax));
        }
    }
}

/// What became of a wait begun by [`begin_wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BegunWait {
    /// The kernel remembers when it is to end. Give the thread the program's registers, with
    /// `orig_rax` the number of the call and `rax` [`BegunWait::RESTART`], let it go, and it waits
    /// until exactly then.
    Waiting,
    /// It ended at once with this answer (the time was over, or the futex has another value).
    Ended(Answer),
}

impl BegunWait {
    /// ERESTART_RESTARTBLOCK as the register has it.
    pub const RESTART: u64 = (-516_i64).cast_unsigned();
}

/// Begins a relative timed wait (nanosleep, clock_nanosleep, poll, futex) inside the task with the
/// time that is *left* of it, and interrupts it at once: the kernel then keeps the moment it is to
/// end for the thread (its restart block), which no registers could tell it. `args` may point to
/// scratch memory for the length, but to nothing else that will not stay: the kernel keeps the
/// address of a futex or of the polled set too.
pub fn begin_wait(
    task: &mut Stopped,
    gate: VirtAddr,
    nr: libc::c_long,
    args: &[u64],
) -> Result<BegunWait> {
    task.raise_shield()?;
    let regs = aim(task, gate, nr, args)?;
    task.set_regs(&regs)?;
    run_until(task, Until::Syscall)?;
    // Asked for while the thread stands before the call, the interruption cannot come too early.
    ptrace::interrupt(task.tid().0).map_err(Error::os("interrupt", task.tid()))?;
    run_until(task, Until::Interrupted)?;
    let rax = task.regs()?.rax;
    Ok(match rax {
        BegunWait::RESTART => BegunWait::Waiting,
        other => BegunWait::Ended(answer(other.cast_signed())),
    })
}

/// What to run up to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The stub has done its calls.
    Marked { stub: u64 },
    /// A system call begins or ends.
    Syscall,
    /// PTRACE_INTERRUPT has taken effect.
    Interrupted,
}

/// Lets the task run until then; whatever else it stops for is seen to, and it goes on.
fn run_until(task: &mut Stopped, until: Until) -> Result<()> {
    let tid = task.tid();
    loop {
        let go = if until == Until::Syscall { ptrace::syscall } else { ptrace::cont };
        match go(tid.0, 0) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Err(task.mark_dead()),
            Err(errno) => return Err(Error::os("run", tid)(errno)),
        }
        match wait(tid.0, true) {
            Ok(Some(Change::Stopped { signal: SYSCALL_STOP, event: 0 })) => {
                if until == Until::Syscall {
                    return Ok(());
                }
            }
            Ok(Some(Change::Stopped { event: ptrace::EVENT_STOP, .. })) => {
                // Otherwise an interruption left over, or job control: the task may run for us.
                if until == Until::Interrupted {
                    return Ok(());
                }
            }
            Ok(Some(Change::Stopped { signal, event: 0 })) => {
                if got_signal(task, signal, until)? {
                    return Ok(());
                }
                if until == Until::Interrupted {
                    // Any stop uses an interruption up.
                    ptrace::interrupt(tid.0).map_err(Error::os("interrupt", tid))?;
                }
            }
            Ok(Some(Change::Stopped { .. }) | None) => {}
            Ok(Some(Change::Ended(_))) | Err(Errno::ECHILD) => return Err(task.mark_dead()),
            Err(errno) => return Err(Error::os("wait for", tid)(errno)),
        }
    }
}

/// A signal got through the shield; true if it is the stub's own mark.
fn got_signal(task: &mut Stopped, signal: i32, until: Until) -> Result<bool> {
    /// `si_code` of tgkill(2).
    const SI_TKILL: i32 = -6;
    const FAULTS: [i32; 5] =
        [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
    let tid = task.tid();
    if signal == libc::SIGSTOP {
        task.raise_shield()?.put_off_stop = true;
        return Ok(false);
    }
    let info = ptrace::siginfo(tid.0).map_err(Error::os("ask for the signal of", tid))?;
    let code = i32::from_le_bytes(info[8..12].try_into().expect("four bytes"));
    let regs = task.regs()?;
    let mark = task.raise_shield()?.mark;
    if let Until::Marked { stub } = until
        && signal == mark
        && code == SI_TKILL
        && (regs.r12, regs.rip) == (0, stub + MARKED)
    {
        return Ok(true);
    }
    if code > 0 && FAULTS.contains(&signal) {
        return Err(Error::Stub { pid: tid, signal, at: VirtAddr(regs.rip) });
    }
    // Somebody else's signal of the same number. Choose another mark and block this one; the
    // kernel then puts it back into the queue it came from, sender and all, when told to deliver it.
    let mark = free_mark(tid, signal)?;
    let shield = task.raise_shield()?;
    shield.mark = mark;
    shield.block(tid)?;
    if let Until::Marked { stub } = until {
        let at_end = (stub + DONE..stub + STUB.len() as u64).contains(&regs.rip);
        let rip = if at_end { stub + DONE } else { regs.rip };
        let orig_rax = if at_end { Regs::NO_CALL } else { regs.orig_rax };
        task.set_regs(&Regs { rip, orig_rax, r13: u64::from(mark.cast_unsigned()), ..regs })?;
    }
    requeue(task, signal)?;
    Ok(false)
}

/// Has the kernel put a blocked signal back into its queue, by interrupting the task at once again.
fn requeue(task: &mut Stopped, signal: i32) -> Result<()> {
    let tid = task.tid();
    ptrace::interrupt(tid.0)
        .and_then(|()| ptrace::cont(tid.0, signal))
        .map_err(Error::os("give a signal back to", tid))?;
    loop {
        match wait(tid.0, true) {
            Ok(Some(Change::Stopped { event: ptrace::EVENT_STOP, .. })) => return Ok(()),
            Ok(Some(Change::Stopped { signal, event })) => {
                if signal == libc::SIGSTOP && event == 0 {
                    task.raise_shield()?.put_off_stop = true;
                }
                ptrace::interrupt(tid.0)
                    .and_then(|()| ptrace::cont(tid.0, 0))
                    .map_err(Error::os("run", tid))?;
            }
            Ok(Some(Change::Ended(_))) | Err(Errno::ECHILD) => return Err(task.mark_dead()),
            Ok(None) => {}
            Err(errno) => return Err(Error::os("wait for", tid)(errno)),
        }
    }
}

/// A thread of the *source*, on loan: until [`leave`](Self::leave) or drop it may be made to call
/// the kernel, and then everything is as it was.
///
/// Saved and put back: general registers, with `orig_rax` and `rax` raw, so that the kernel itself
/// restarts the call the thread was in (only it knows how much of a timed wait is left); the signal
/// mask; CPU affinity (the thread is pinned to our CPU meanwhile: a round trip between two CPUs costs
/// ten times as much). Untouched: extended state, signal actions, pending signals.
#[derive(Debug)]
pub struct Borrowed<'t> {
    task: &'t mut Stopped,
    original: Regs,
    affinity: Option<SavedAffinity>,
    returned: bool,
}

impl<'t> Borrowed<'t> {
    /// Saves what will be put back.
    pub fn enter(task: &'t mut Stopped) -> Result<Self> {
        let original = task.regs()?;
        if original.cs != Regs::USER_CS {
            return Err(Error::NotX64 { pid: task.tid() });
        }
        task.raise_shield()?;
        // Speed only: a thread that may not be moved works for us where it is.
        let affinity = pin_to_my_cpu(task.tid()).ok();
        Ok(Self { task, original, affinity, returned: false })
    }

    /// The thread.
    pub fn task(&mut self) -> &mut Stopped {
        self.task
    }

    /// Its registers as they were.
    pub fn original(&self) -> &Regs {
        &self.original
    }

    /// Puts everything back. The thread stays stopped.
    pub fn leave(mut self) -> Result<()> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.returned, true) {
            return Ok(());
        }
        let original = self.original;
        let regs = self.task.set_regs(&original);
        let shield = self.task.lower_shield();
        let affinity = self.affinity.take().map_or(Ok(()), SavedAffinity::restore);
        regs.and(shield).and(affinity)
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        // Nobody is left to be told; `leave` is for those who want to know.
        let _ = self.put_back();
    }
}

const _: () = assert!(bit(libc::SIGTRAP) == 1 << 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_values_or_errnos() {
        assert_eq!(answer(-1), Err(Errno::EPERM));
        assert_eq!(answer(-4095), Err(Errno::from_raw(4095)));
        assert_eq!(answer(-4096), Ok((-4096_i64).cast_unsigned()));
        assert_eq!(answer(0x7fff_ffff_f000), Ok(0x7fff_ffff_f000));
    }

    #[test]
    fn the_gate_is_the_first_syscall_instruction() {
        let code = [0x90, 0x0f, 0x0f, 0x05, 0xc3, 0x0f, 0x05];
        assert_eq!(find_gate(&code, VirtAddr(0x1000)), Some(VirtAddr(0x1002)));
        assert_eq!(find_gate(&code[..3], VirtAddr(0x1000)), None);
    }
}
