//! One thread, held.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::proc::status::Status;
use crate::regs::{Interrupted, Regs, XState, XsaveLayout, wound_back};
use crate::shield::Shield;
use crate::sys::ptrace;
use crate::sys::wait::{Change, wait};
use crate::{Error, HostPid, Result, sys};

/// How long [`Stopped::seize`] waits for a thread to come to a stop.
const SEIZE_PATIENCE: Duration = Duration::from_secs(10);

/// One thread in ptrace-stop.
///
/// Holding it proves: the thread is stopped, runs nothing, and this thread of ours is its tracer
/// (hence not `Send`). Whatever a stop leaves behind has been seen to at once: a restartable
/// sequence the thread was in is aborted as rseq(2) promises, and an EINTR that nobody but our stop
/// caused is wound back.
///
/// Dropping it detaches: the thread runs on. Only a task that we have made ourselves
/// ([`crate::spawn`]) is killed then, with its whole process, since what would run is half a
/// program; [`crate::group::kill_and_reap`] leaves not even a zombie.
#[derive(Debug)]
pub struct Stopped {
    tid: HostPid,
    kind: StopKind,
    options: i32,
    shield: Option<Shield>,
    /// False once there is nothing to detach from any more.
    held: bool,
    /// We made it: nobody misses it if we drop it.
    born: bool,
    tracer: PhantomData<*mut ()>,
}

/// Why a thread stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopKind {
    /// Because we interrupted it.
    Interrupted,
    /// Its whole process was stopped by job control, by this signal, and stays so after us.
    GroupStop(i32),
}

/// rseq(2) registration of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RseqConfig {
    /// Address of its struct rseq.
    pub area: u64,
    /// Size registered.
    pub size: u32,
    /// Signature in front of abort handlers.
    pub signature: u32,
    /// Flags registered.
    pub flags: u32,
}

/// One filter of seccomp(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeccompFilter {
    /// Instructions of classic BPF, eight bytes each.
    pub program: Vec<u8>,
    /// What it does not allow is logged.
    pub log: bool,
}

impl Stopped {
    /// Seizes and interrupts a thread, and waits until it stands (ten seconds at most).
    ///
    /// Signals it was just about to get are delivered as they would have been; a thread that job
    /// control has stopped is taken over as it is.
    pub fn seize(tid: HostPid) -> Result<Self> {
        Seizing::begin(tid)?.finish(Instant::now() + SEIZE_PATIENCE)
    }

    /// A thread that is in ptrace-stop, as its tracer knows.
    pub(crate) fn already(tid: HostPid, options: i32, shield: Option<Shield>) -> Self {
        Self {
            tid,
            kind: StopKind::Interrupted,
            options,
            shield,
            held: true,
            born: false,
            tracer: PhantomData,
        }
    }

    /// Its number on this host.
    pub fn tid(&self) -> HostPid {
        self.tid
    }

    /// Why it stood still when it was seized.
    pub fn stop_kind(&self) -> StopKind {
        self.kind
    }

    /// The general registers.
    pub fn regs(&self) -> Result<Regs> {
        ptrace::regs(self.tid.0).map_err(Error::os("read the registers of", self.tid))
    }

    /// Sets the general registers.
    pub fn set_regs(&mut self, regs: &Regs) -> Result<()> {
        ptrace::set_regs(self.tid.0, regs).map_err(Error::os("set the registers of", self.tid))
    }

    /// The extended processor state.
    pub fn xstate(&self) -> Result<XState> {
        XsaveLayout::cached().read(self.tid)
    }

    /// Sets the extended processor state, laid out for this CPU. Fails by number on a component in
    /// use that this CPU does not have.
    pub fn set_xstate(&mut self, state: &XState) -> Result<()> {
        XsaveLayout::cached().write(self.tid, state)
    }

    /// The signals the program has blocked (those it will have after sigsuspend(2) and its like, if
    /// it is in one). What is blocked while it works for us does not show.
    pub fn blocked(&self) -> Result<u64> {
        match &self.shield {
            Some(shield) => Ok(shield.mask),
            None => ptrace::signal_mask(self.tid.0)
                .map_err(Error::os("read the signal mask of", self.tid)),
        }
    }

    /// Sets what the program has blocked; takes effect when it runs on.
    pub fn set_blocked(&mut self, mask: u64) -> Result<()> {
        match &mut self.shield {
            Some(shield) => {
                shield.mask = mask;
                Ok(())
            }
            None => ptrace::set_signal_mask(self.tid.0, mask)
                .map_err(Error::os("set the signal mask of", self.tid)),
        }
    }

    /// The pending signals of this thread alone, or of its whole process, oldest first, as raw
    /// `siginfo_t`.
    pub fn pending(&self, shared: bool) -> Result<Vec<[u8; 128]>> {
        ptrace::pending(self.tid.0, shared).map_err(Error::os("read pending signals of", self.tid))
    }

    /// One of its seccomp filters, the oldest being number zero; `None` if it has no more.
    pub fn seccomp_filter(&self, number: usize) -> Result<Option<SeccompFilter>> {
        let program = match ptrace::seccomp_filter(self.tid.0, number) {
            Err(Errno::ENOENT) => return Ok(None),
            answer => answer.map_err(Error::os("read a seccomp filter of", self.tid))?,
        };
        let flags = ptrace::seccomp_flags(self.tid.0, number)
            .map_err(Error::os("read a seccomp filter of", self.tid))?;
        Ok(Some(SeccompFilter { program, log: flags & ptrace::SECCOMP_LOG != 0 }))
    }

    /// True if its system calls may come back to it as signals (PR_SET_SYSCALL_USER_DISPATCH).
    pub fn redirects_calls(&self) -> Result<bool> {
        match ptrace::dispatch_mode(self.tid.0) {
            // A kernel without the question (before Linux 6.4) is asked in vain.
            Err(Errno::EIO | Errno::EINVAL) => Ok(false),
            answer => {
                let mode = answer.map_err(Error::os("read the dispatch of calls of", self.tid))?;
                Ok(mode != 0)
            }
        }
    }

    /// The rseq(2) registration.
    pub fn rseq(&self) -> Result<Option<RseqConfig>> {
        let config = match ptrace::rseq(self.tid.0) {
            // A kernel without rseq does not know the question.
            Err(Errno::EIO | Errno::EINVAL) => return Ok(None),
            answer => answer.map_err(Error::os("read the rseq registration of", self.tid))?,
        };
        Ok((config.area != 0).then_some(RseqConfig {
            area: config.area,
            size: config.size,
            signature: config.signature,
            flags: config.flags,
        }))
    }

    /// From now on the thread dies with its tracer (`PTRACE_O_EXITKILL`).
    pub fn exit_with_tracer(&mut self) -> Result<()> {
        self.apply(self.options | ptrace::O_EXITKILL)
    }

    /// The opposite: from now on the kernel lets the thread run on if its tracer dies.
    pub fn outlive_tracer(&mut self) -> Result<()> {
        self.apply(self.options & !ptrace::O_EXITKILL)
    }

    fn apply(&mut self, options: i32) -> Result<()> {
        let suspend = if self.shield.is_some() { ptrace::O_SUSPEND_SECCOMP } else { 0 };
        let set = match ptrace::set_options(self.tid.0, options | suspend) {
            Err(Errno::EPERM | Errno::EINVAL) if suspend != 0 => {
                ptrace::set_options(self.tid.0, options)
            }
            set => set,
        };
        set.map_err(Error::os("set ptrace options of", self.tid))?;
        self.options = options;
        Ok(())
    }

    /// Lets the thread run on.
    pub fn detach(mut self) -> Result<()> {
        self.release()
    }

    /// Lets the thread run on into a signal: it is queued before anything runs. With SIGSTOP the
    /// whole process ends up stopped by job control.
    pub fn detach_with(mut self, signal: i32) -> Result<()> {
        if signal != 0 {
            sys::process::tkill(self.tid.0, signal).map_err(Error::os("signal", self.tid))?;
        }
        self.release()
    }

    /// Gives the thread up without letting it run: it is about to be killed.
    pub fn forget(mut self) {
        self.held = false;
    }

    fn release(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.held, false) {
            return Ok(());
        }
        let lowered = self.lower_shield();
        let detached = ptrace::detach(self.tid.0, 0).map_err(Error::os("let go of", self.tid));
        lowered.and(detached)
    }

    pub(crate) fn mark_dead(&mut self) -> Error {
        self.held = false;
        Error::Died { pid: self.tid }
    }

    /// Blocks what would disturb injected calls; does nothing the second time.
    pub(crate) fn raise_shield(&mut self) -> Result<&mut Shield> {
        if self.shield.is_none() {
            self.shield = Some(Shield::raise(self.tid, self.options)?);
        }
        Ok(self.shield.as_mut().expect("set just above"))
    }

    pub(crate) fn lower_shield(&mut self) -> Result<()> {
        match self.shield.take() {
            Some(shield) => shield.lower(self.tid, self.options),
            None => Ok(()),
        }
    }

    /// A task we have just made, in its first stop. Its mask was never a program's.
    pub(crate) fn born(tid: HostPid, options: i32, shield: Option<Shield>) -> Self {
        let mut task = Self::already(tid, options, shield);
        task.born = true;
        task
    }

    /// What a thread made by this one begins with.
    pub(crate) fn inherited(&self) -> (i32, Option<Shield>) {
        let shield = self.shield.map(|shield| Shield { put_off_stop: false, ..shield });
        (self.options, shield)
    }

    /// Filters that a task under construction is given stay out of our way, and out of that of the
    /// tasks it makes.
    pub(crate) fn set_options(&mut self, options: i32) -> Result<()> {
        self.apply(options)
    }

    /// Sees to what the stop left behind, before anything else happens to the thread.
    fn settle(&mut self) -> Result<()> {
        let mut regs = self.regs()?;
        let mut changed = self.abort_restartable_sequence(&mut regs)?;
        if let Interrupted::LeakedEintr { .. } = wound_back(&regs).was
            && self.kind == StopKind::Interrupted
            && !self.handler_is_due()?
        {
            regs = wound_back(&regs).regs;
            changed = true;
        }
        if changed { self.set_regs(&regs) } else { Ok(()) }
    }

    /// rseq(2): inside a critical section, go to its abort handler. The kernel does this itself when
    /// the thread runs on from where it is, but not once other code has run in it: then it finds the
    /// thread outside, and merely forgets the section, whose end then runs unprotected.
    fn abort_restartable_sequence(&self, regs: &mut Regs) -> Result<bool> {
        /// Offset of `rseq_cs` in `struct rseq` (linux/rseq.h).
        const RSEQ_CS: u64 = 8;
        let Some(config) = self.rseq()? else { return Ok(false) };
        let at = config.area.wrapping_add(RSEQ_CS);
        let read = |at: u64, into: &mut [u8]| {
            sys::memory::read(self.tid.0, at, into).is_ok_and(|count| count == into.len())
        };
        let mut word = [0_u8; 8];
        if !read(at, &mut word) || word == [0; 8] {
            return Ok(false);
        }
        // struct rseq_cs { u32 version, flags; u64 start_ip, post_commit_offset, abort_ip; }
        let mut section = [0_u8; 32];
        if !read(u64::from_le_bytes(word), &mut section) {
            return Ok(false);
        }
        let field = |from: usize| {
            u64::from_le_bytes(section[from..from + 8].try_into().expect("eight bytes"))
        };
        let (start, length, abort) = (field(8), field(16), field(24));
        if regs.rip.wrapping_sub(start) >= length {
            return Ok(false);
        }
        sys::memory::write(self.tid.0, at, &[0; 8])
            .map_err(Error::os("clear the rseq section of", self.tid))?;
        regs.rip = abort;
        regs.orig_rax = Regs::NO_CALL;
        Ok(true)
    }

    /// True if a signal handler runs as soon as the thread does: then EINTR is the truth.
    fn handler_is_due(&self) -> Result<bool> {
        let status = Status::read(self.tid)?;
        let pending = status.pending | status.shared_pending;
        Ok(pending & !status.blocked & status.caught != 0)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Nobody is left to be told; a task that has died needs no letting go.
        if self.held && self.born {
            let _ = sys::process::tkill(self.tid.0, libc::SIGKILL);
        } else {
            let _ = self.release();
        }
    }
}

/// A thread that has been told to stop and may not stand yet.
pub(crate) struct Seizing {
    tid: HostPid,
    pending: bool,
}

impl Seizing {
    /// Seizes and interrupts.
    pub(crate) fn begin(tid: HostPid) -> Result<Self> {
        match ptrace::seize(tid.0, ptrace::O_TRACESYSGOOD) {
            Ok(()) => {}
            Err(Errno::EPERM) => Self::ours_already(tid)?,
            Err(errno) => return Err(Error::os("seize", tid)(errno)),
        }
        // Seized and not stoppable means dying; waiting for it tells.
        match ptrace::interrupt(tid.0) {
            Ok(()) | Err(Errno::ESRCH) => Ok(Self { tid, pending: true }),
            Err(errno) => Err(Error::os("interrupt", tid)(errno)),
        }
    }

    /// A thread we had seized keeps its tracer, but takes its leader's number, when it calls
    /// execve(2). Anything else is an honest refusal.
    fn ours_already(tid: HostPid) -> Result<()> {
        let status = Status::read(tid)?;
        if matches!(status.state, 'Z' | 'X') {
            return Err(Error::Died { pid: tid });
        }
        match status.tracer {
            tracer if tracer == sys::process::gettid() => Ok(()),
            0 => Err(Error::Os { act: "seize", pid: tid, errno: Errno::EPERM }),
            tracer => Err(Error::TracedBy { pid: tid, tracer: HostPid(tracer) }),
        }
    }

    /// Waits until it stands.
    pub(crate) fn finish(mut self, until: Instant) -> Result<Stopped> {
        let kind = self.wait(until)?;
        self.pending = false;
        let mut stopped = Stopped::already(self.tid, ptrace::O_TRACESYSGOOD, None);
        stopped.kind = kind;
        stopped.settle()?;
        Ok(stopped)
    }

    fn wait(&mut self, until: Instant) -> Result<StopKind> {
        let mut naps = 0_u32;
        loop {
            match wait(self.tid.0, false) {
                Ok(None) if Instant::now() > until => {
                    return Err(Error::Deadline { pid: self.tid });
                }
                // The tracee may need this very CPU to come to its stop: sleep, a little longer
                // each time. A blocking wait would be simpler, but has no deadline.
                Ok(None) => {
                    std::thread::sleep(Duration::from_micros((10 << naps.min(6)).min(500)));
                    naps += 1;
                }
                Ok(Some(Change::Stopped { signal, event: ptrace::EVENT_STOP })) => {
                    return Ok(match signal {
                        libc::SIGTRAP => StopKind::Interrupted,
                        signal => StopKind::GroupStop(signal),
                    });
                }
                // About to get a signal, which we must not keep from it. This stop has used our
                // interrupt up, so ask for another before letting the signal through.
                Ok(Some(Change::Stopped { signal, event })) => {
                    let deliver = if event == 0 && signal & 0x80 == 0 { signal } else { 0 };
                    let again = ptrace::interrupt(self.tid.0)
                        .and_then(|()| ptrace::cont(self.tid.0, deliver));
                    match again {
                        Ok(()) | Err(Errno::ESRCH) => {}
                        Err(errno) => return Err(Error::os("interrupt", self.tid)(errno)),
                    }
                }
                Ok(Some(Change::Ended(_))) | Err(Errno::ECHILD) => {
                    self.pending = false;
                    return Err(Error::Died { pid: self.tid });
                }
                Err(errno) => return Err(Error::os("wait for", self.tid)(errno)),
            }
        }
    }
}

impl Drop for Seizing {
    /// A tracee can be let go only where it stands; give it a moment. Failing that it stops later,
    /// and runs on when this thread of ours ends.
    fn drop(&mut self) {
        if self.pending && self.wait(Instant::now() + Duration::from_millis(200)).is_ok() {
            let _ = ptrace::detach(self.tid.0, 0);
        }
    }
}
