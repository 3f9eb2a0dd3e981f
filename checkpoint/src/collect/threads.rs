//! Threads: first what can be read while nothing runs in them, then what each must ask itself.

use std::time::Duration;

use image::state::{
    FpState, Placement, Regs, RobustList, Rseq, Sched, Seccomp, Setting, SigInfo, SigSet, Thread,
    XComponent,
};
use nix::libc;
use nix::unistd::{SysconfVar, sysconf};
use pages::{TaskId, VirtAddr};
use tracee::proc::status::Status;
use tracee::{Borrowed, Call, HostPid, Interrupted, Memory, Runner, Stopped, wound_back};

use super::waits::{Clockwork, RESTART_SYSCALL, Wait, call_before_restart};
use super::{creds, int, long, settings, signals};
use crate::error::CollectError;
use crate::survey::refusals::Trouble;
use crate::survey::task;

/// A thread as it was before anything was run in it.
pub(super) struct Resting {
    pub(super) tid: HostPid,
    pub(super) status: Status,
    comm: String,
    regs: Regs,
    fp: FpState,
    robust_list: Option<RobustList>,
    rseq: Option<Rseq>,
    blocked: SigSet,
    pub(super) sched: Sched,
    cpus: Vec<u32>,
    slice: Option<Setting>,
    pub(super) seccomp: Seccomp,
    wait_left: Option<Duration>,
}

impl Resting {
    /// Reads what ptrace(2) and /proc tell.
    pub(super) fn read(
        thread: &Stopped,
        memory: &Memory,
        clockwork: &Clockwork,
        frozen: Duration,
        before: Option<&Seccomp>,
    ) -> Result<Result<Self, Trouble>, CollectError> {
        let tid = thread.tid();
        if thread.redirects_calls()? {
            let reason = "its system calls are its own to handle (PR_SET_SYSCALL_USER_DISPATCH)";
            return Ok(Err(Trouble::new("", reason)));
        }
        let status = Status::read(tid)?;
        let seccomp = match super::seccomp::rules(thread, status.seccomp, before)? {
            Ok(rules) => rules,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let raw = thread.regs()?;
        let fp = thread.xstate()?;
        if let Some(trouble) = task::registers(raw.cs, fp.in_use) {
            return Ok(Err(trouble));
        }
        let (regs, wait_left) = ready(&raw, tid, &status, memory, clockwork, frozen);
        let (policy, priority, nice) = tracee::host::sched(tid)?;
        let robust_list = tracee::host::robust_list(tid)?.map(|(head, len)| RobustList {
            head: VirtAddr(head),
            len: u32::try_from(len).unwrap_or(u32::MAX),
        });
        let rseq = thread.rseq()?.map(|rseq| Rseq {
            area: VirtAddr(rseq.area),
            size: rseq.size,
            signature: rseq.signature,
        });
        Ok(Ok(Self {
            tid,
            // `status` escapes blanks; a file less to read is worth a look.
            comm: if status.name.contains('\\') {
                super::tree::comm(tid)?
            } else {
                super::tree::name(status.name.as_bytes())
            },
            regs,
            fp: FpState {
                legacy: Box::new(fp.legacy),
                in_use: fp.in_use,
                components: fp
                    .components
                    .into_iter()
                    .map(|(number, bytes)| XComponent { number, bytes })
                    .collect(),
            },
            robust_list,
            rseq,
            blocked: SigSet(thread.blocked()?),
            sched: Sched { policy, priority, nice },
            cpus: bound_to(tid)?,
            slice: settings::slice(tid),
            seccomp,
            wait_left,
            status,
        }))
    }

    /// The whole thread, with what it told itself and what is pending for it now.
    pub(super) fn awake(self, told: Told, pending: Vec<SigInfo>) -> Thread {
        Thread {
            id: TaskId(self.tid.0.unsigned_abs()),
            comm: self.comm,
            regs: self.regs,
            fp: self.fp,
            clear_child_tid: told.clear_child_tid,
            robust_list: self.robust_list,
            rseq: self.rseq,
            blocked: self.blocked,
            pending,
            altstack: told.altstack,
            creds: creds::creds(&self.status, told.securebits),
            sched: self.sched,
            placement: Placement {
                cpus: self.cpus,
                io_priority: told.io_priority,
                timer_slack: told.timer_slack,
            },
            pdeath_signal: told.pdeath_signal,
            seccomp: self.seccomp,
            settings: told.settings.into_iter().chain(self.slice).collect(),
            wait_left: self.wait_left,
        }
    }
}

/// The CPUs a thread is bound to; none if it may run on every one of this host.
fn bound_to(tid: HostPid) -> Result<Vec<u32>, CollectError> {
    let set = tracee::host::affinity(tid)?;
    let all = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
    Ok(if i64::from(set.count()) >= all { Vec::new() } else { set.cpus() })
}

/// The registers to go on with, and how much was left of a timed wait.
fn ready(
    raw: &tracee::Regs,
    tid: HostPid,
    status: &Status,
    memory: &Memory,
    clockwork: &Clockwork,
    frozen: Duration,
) -> (Regs, Option<Duration>) {
    let back = wound_back(raw);
    let Interrupted::RestartBlock { nr } = back.was else {
        return (registers(&back.regs), None);
    };
    let mut regs = back.regs;
    let mut call = nr.cast_unsigned();
    let args = [raw.rdi, raw.rsi, raw.rdx, raw.r10, raw.r8, raw.r9];
    if call == RESTART_SYSCALL {
        let switches = status.voluntary_switches;
        if let Some((before, left)) = clockwork.going_on(tid, &args, switches, frozen) {
            return (registers(&tracee::Regs { rax: before, ..regs }), left);
        }
        match call_before_restart(memory, raw.rip) {
            Some(before) => call = before,
            // What the wait was is lost; the program sees what it would after a signal.
            None => {
                regs = tracee::Regs {
                    rax: (-libc::c_long::from(libc::EINTR)).cast_unsigned(),
                    orig_rax: tracee::Regs::NO_CALL,
                    ..*raw
                };
                return (registers(&regs), None);
            }
        }
        regs.rax = call;
    }
    let left = Wait::read(memory, call, args)
        .and_then(|wait| clockwork.left(tid, &wait, status.voluntary_switches, frozen));
    (registers(&regs), left)
}

fn registers(from: &tracee::Regs) -> Regs {
    Regs {
        r15: from.r15,
        r14: from.r14,
        r13: from.r13,
        r12: from.r12,
        bp: from.rbp,
        bx: from.rbx,
        r11: from.r11,
        r10: from.r10,
        r9: from.r9,
        r8: from.r8,
        ax: from.rax,
        cx: from.rcx,
        dx: from.rdx,
        si: from.rsi,
        di: from.rdi,
        orig_ax: from.orig_rax,
        ip: from.rip,
        cs: from.cs,
        flags: from.eflags,
        sp: from.rsp,
        ss: from.ss,
        fs_base: from.fs_base,
        gs_base: from.gs_base,
        ds: from.ds,
        es: from.es,
        fs: from.fs,
        gs: from.gs,
    }
}

/// What only a thread itself can ask the kernel.
pub(super) struct Told {
    clear_child_tid: VirtAddr,
    altstack: image::state::AltStack,
    pdeath_signal: u32,
    securebits: u32,
    timer_slack: u64,
    io_priority: u32,
    settings: Vec<Setting>,
}

/// The questions for one thread, and where the answers will be.
pub(super) struct Questions {
    room: VirtAddr,
    first: usize,
    settings: settings::OfThread,
}

/// Room for the answers: an address, a `stack_t`, an int.
const ROOM: usize = ALTSTACK_AT + signals::ALTSTACK + 8;
const ALTSTACK_AT: usize = 8;
const PDEATH_AT: usize = ALTSTACK_AT + signals::ALTSTACK;
/// prctl(2), Linux 3.5, with CONFIG_CHECKPOINT_RESTORE.
const PR_GET_TID_ADDRESS: u64 = 40;

/// ioprio_set(2).
const IOPRIO_WHO_PROCESS: u64 = 1;

impl Questions {
    /// Adds the calls.
    pub(super) fn ask(runner: &mut Runner, calls: &mut Vec<Call>) -> Result<Self, CollectError> {
        let room = runner.room(ROOM)?;
        let first = calls.len();
        let prctl = |option: u64, into: u64| Call::new(libc::SYS_prctl, &[option, into]);
        calls.extend([
            prctl(libc::PR_GET_SECUREBITS.unsigned_abs().into(), 0),
            prctl(PR_GET_TID_ADDRESS, room.0),
            Call::new(libc::SYS_sigaltstack, &[0, room.0 + ALTSTACK_AT as u64]),
            prctl(libc::PR_GET_PDEATHSIG.unsigned_abs().into(), room.0 + PDEATH_AT as u64),
            prctl(libc::PR_GET_TIMERSLACK.unsigned_abs().into(), 0),
            Call::new(libc::SYS_ioprio_get, &[IOPRIO_WHO_PROCESS, 0]),
        ]);
        let settings = settings::OfThread::ask(runner, calls)?;
        Ok(Self { room, first, settings })
    }

    /// Reads the answers.
    pub(super) fn answers(
        &self,
        tid: HostPid,
        runner: &Runner,
        calls: &[Call],
    ) -> Result<Result<Told, Trouble>, CollectError> {
        let settings = match self.settings.answers(runner, calls)? {
            Ok(settings) => settings,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let mut room = [0; ROOM];
        runner.get(self.room, &mut room)?;
        let calls = &calls[self.first..];
        let securebits = calls[0].expect("ask for securebits", tid)?;
        // Without CONFIG_CHECKPOINT_RESTORE the kernel does not tell.
        calls[1].expect("ask for the address of the thread id", tid)?;
        calls[2].expect("ask for the alternate signal stack", tid)?;
        calls[3].expect("ask for the parent death signal", tid)?;
        let timer_slack = calls[4].expect("ask for the timer slack", tid)?;
        let io_priority = calls[5].expect("ask for the I/O priority", tid)?;
        let altstack = room[ALTSTACK_AT..PDEATH_AT].try_into().expect("room for a stack_t");
        Ok(Ok(Told {
            clear_child_tid: VirtAddr(long(&room, 0)),
            altstack: signals::altstack(altstack),
            pdeath_signal: int(&room, PDEATH_AT),
            securebits: u32::try_from(securebits).unwrap_or(0),
            timer_slack,
            io_priority: u32::try_from(io_priority).unwrap_or(0),
            settings,
        }))
    }
}

/// Has a thread other than the leader ask its questions.
pub(super) fn ask(
    thread: &mut Stopped,
    runner: &mut Runner,
) -> Result<Result<Told, Trouble>, CollectError> {
    runner.reset();
    let tid = thread.tid();
    let mut calls = Vec::new();
    let questions = Questions::ask(runner, &mut calls)?;
    let mut borrowed = Borrowed::enter(thread)?;
    runner.batch(borrowed.task(), &mut calls)?;
    let told = questions.answers(tid, runner, &calls)?;
    borrowed.leave()?;
    Ok(told)
}
