//! What only a process itself can ask the kernel, asked in few trips: one batch in the leader, one
//! small batch in each other thread, through scratch memory that is gone again afterwards.

use image::state::{IntervalTimer, PosixTimer, Setting, SigAction};
use nix::libc;
use pages::VirtAddr;
use tracee::proc::timers::TimerSetup;
use tracee::{Borrowed, Call, HeldProcess, HostPid, Runner};

use super::int;
use super::settings;
use super::signals::Actions;
use super::threads::{self, Questions, Told};
use super::timers::{Moment, Timers, room_for};
use crate::error::CollectError;
use crate::survey::refusals::Trouble;

/// The answers of one process.
pub(super) struct Asked {
    pub(super) brk: VirtAddr,
    pub(super) sigactions: Vec<SigAction>,
    pub(super) itimers: [IntervalTimer; 3],
    pub(super) posix_timers: Vec<Result<PosixTimer, Trouble>>,
    pub(super) dumpable: u32,
    pub(super) thp_disabled: bool,
    pub(super) child_subreaper: bool,
    pub(super) membarrier: u32,
    pub(super) settings: Vec<Setting>,
    /// What of the process, or of one of its threads, cannot be carried.
    pub(super) troubles: Vec<Trouble>,
    /// One for each thread, the leader first.
    pub(super) threads: Vec<Told>,
}

/// Stub, answers of one process without posix timers, and the array of calls with some to spare.
const SCRATCH: usize = 32 << 10;

/// Asks everything; `locked` is how much of its memory is locked now. Whatever fails, the scratch memory is taken out again.
pub(super) fn ask(
    process: &mut HeldProcess,
    gate: VirtAddr,
    timers: &[TimerSetup],
    frozen: Moment,
    locked: u64,
) -> Result<Asked, CollectError> {
    let (leader, others) = process
        .threads
        .split_first_mut()
        .ok_or(CollectError::Nonsense { what: "the threads", pid: process.pid })?;
    let size = (SCRATCH + 2 * room_for(timers.len())).next_multiple_of(pages::PAGE_SIZE);
    let mut borrowed = Borrowed::enter(leader)?;
    let mut runner = Runner::install(borrowed.task(), gate, None, size)?;
    let asked = leader_asks(&mut borrowed, &mut runner, timers, frozen).and_then(|mut asked| {
        for thread in others {
            match threads::ask(thread, &mut runner)? {
                Ok(told) => asked.threads.push(told),
                Err(trouble) => asked.troubles.push(trouble),
            }
        }
        let (pid, scratch) = (process.pid, runner.scratch());
        asked.settings.extend(settings::lock_future(pid, locked, scratch)?);
        Ok(asked)
    });
    let removed = runner.remove(borrowed.task(), gate);
    let left = borrowed.leave();
    let asked = asked?;
    removed.and(left)?;
    Ok(asked)
}

fn leader_asks(
    leader: &mut Borrowed,
    runner: &mut Runner,
    ids: &[TimerSetup],
    frozen: Moment,
) -> Result<Asked, CollectError> {
    let pid: HostPid = leader.task().tid();
    let mut calls = vec![
        Call::new(libc::SYS_brk, &[0]),
        Call::new(libc::SYS_prctl, &[libc::PR_GET_DUMPABLE.unsigned_abs().into()]),
        Call::new(libc::SYS_prctl, &[libc::PR_GET_THP_DISABLE.unsigned_abs().into()]),
    ];
    let subreaper = runner.room(size_of::<u32>())?;
    calls.push(Call::new(
        libc::SYS_prctl,
        &[libc::PR_GET_CHILD_SUBREAPER.unsigned_abs().into(), subreaper.0],
    ));
    let actions = Actions::ask(runner, &mut calls)?;
    let process = settings::OfProcess::ask(&mut calls);
    let own = Questions::ask(runner, &mut calls)?;
    let timers = Timers::ask(ids, runner, &mut calls)?;
    runner.batch(leader.task(), &mut calls)?;
    let since = frozen.elapsed();

    let mut flag = [0; size_of::<u32>()];
    runner.get(subreaper, &mut flag)?;
    let (itimers, posix_timers) = timers.answers(ids, runner, &calls, since)?;
    let settings::Told { settings, membarrier, trouble } = process.answers(&calls);
    let (own, unable) = match own.answers(pid, runner, &calls)? {
        Ok(told) => (vec![told], None),
        Err(trouble) => (Vec::new(), Some(trouble)),
    };
    Ok(Asked {
        membarrier,
        settings,
        troubles: trouble.into_iter().chain(unable).collect(),
        brk: VirtAddr(calls[0].expect("ask for the program break", pid)?),
        dumpable: u32::try_from(calls[1].expect("ask for dumpability", pid)?).unwrap_or(0),
        thp_disabled: calls[2].value().is_ok_and(|disabled| disabled != 0),
        child_subreaper: int(&flag, 0) != 0,
        sigactions: actions.answers(runner)?,
        itimers,
        posix_timers,
        threads: own,
    })
}
