//! Batches of system calls, made by a stub in scratch memory of the task.

use nix::errno::Errno;
use pages::{PAGE_SIZE, PageCount, PageRange, VirtAddr};

use crate::regs::Regs;
use crate::remote::{Answer, Call, gate_call};
use crate::run::{DIRECTION_FLAG, TRAP_FLAG, Until, run_until};
use crate::{Error, HostPid, Memory, Result, Stopped, sys};

/// Position independent code: makes `r12` calls from the array at `rbx`, then sends itself signal
/// `r13` until somebody takes the registers away.
pub(crate) const STUB: [u8; 77] = [
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
pub(crate) const DONE: u64 = 0x2f;
/// Where the stub is when its own signal arrives.
pub(crate) const MARKED: u64 = 0x4b;
/// Where the array of calls begins in scratch memory that may be written and run.
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
    /// Where the array of calls begins in it.
    array: usize,
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
        const RW: u64 = 3;
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
        let range = |start| {
            PageRange::new(VirtAddr(start).page(), PageCount(pages))
                .ok_or_else(|| refused(Errno::EINVAL))
        };
        match gate_call(task, gate, libc::SYS_mmap, &args)? {
            Ok(start) => {
                let runner = Self::around(pid, range(start)?, ARRAY);
                runner.write(start, &STUB)?;
                Ok(runner)
            }
            // It may not have memory to write to and run (PR_SET_MDWE).
            Err(Errno::EACCES) if pages > 1 => {
                let mut args = args;
                args[2] = u64::from((libc::PROT_READ | libc::PROT_EXEC).cast_unsigned());
                let start = gate_call(task, gate, libc::SYS_mmap, &args)?.map_err(refused)?;
                let runner = Self::around(pid, range(start)?, PAGE_SIZE);
                let rest = [start + PAGE_SIZE as u64, (pages - 1) * PAGE_SIZE as u64, RW];
                gate_call(task, gate, libc::SYS_mprotect, &rest)?.map_err(refused)?;
                Memory::open(pid)?.write(VirtAddr(start), &STUB)?;
                Ok(runner)
            }
            Err(errno) => Err(refused(errno)),
        }
    }

    /// The runner of `child`, which was forked (without sharing memory) from the task this runner
    /// works in, and so has a copy of the scratch memory at the same place.
    pub fn of_fork(&self, child: &Stopped) -> Self {
        Self::around(child.tid(), self.scratch, self.array)
    }

    fn around(pid: HostPid, scratch: PageRange, array: usize) -> Self {
        let bytes = usize::try_from(scratch.bytes().0).expect("64 bit");
        let most = ((bytes / 4).saturating_sub(ARRAY) / ENTRY).max(1);
        Self { pid, scratch, array, most, arena: Vec::new(), flushed: 0 }
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
        let at = self.base() + self.array as u64;
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
        self.base() + (self.array + self.most * ENTRY) as u64
    }

    /// The last bytes are left for the stack pointer to point to.
    fn arena_size(&self) -> usize {
        let used = self.array + self.most * ENTRY + 256;
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
