//! One process under construction, and the calls it is made to make for itself.

use nix::errno::Errno;
use nix::libc;
use pages::{TaskId, VirtAddr};
use tracee::{Call, HostPid, Runner, Stopped};

use crate::error::{Error, Result};

/// Our own mistake, should it ever be seen.
const NO_SCRATCH: &str = "make a system call without scratch memory";

/// A process that stands still, none of whose own code has run.
pub(crate) struct Process {
    pub(crate) id: TaskId,
    pub(crate) host: HostPid,
    /// The leader first. `ids` runs parallel.
    pub(crate) threads: Vec<Stopped>,
    pub(crate) ids: Vec<TaskId>,
    /// Gone once the process is finished.
    pub(crate) runner: Option<Runner>,
    /// A `syscall` instruction that is mapped now.
    pub(crate) gate: VirtAddr,
}

/// System calls for one thread to make one after the other.
#[derive(Default)]
pub(crate) struct Batch {
    calls: Vec<Call>,
    notes: Vec<Note>,
}

/// What a call is for, and what happens if it fails.
#[derive(Clone, Copy)]
struct Note {
    act: &'static str,
    may_fail: bool,
}

impl Batch {
    /// A call that must succeed.
    pub(crate) fn must(&mut self, act: &'static str, nr: libc::c_long, args: &[u64]) {
        self.calls.push(Call::new(nr, args));
        self.notes.push(Note { act, may_fail: false });
    }

    /// A call whose failure is only worth a warning.
    pub(crate) fn may(&mut self, act: &'static str, nr: libc::c_long, args: &[u64]) {
        self.calls.push(Call::new(nr, args));
        self.notes.push(Note { act, may_fail: true });
    }
}

impl Process {
    /// Copies `bytes` to where the next batch can point to; valid until that batch has run.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<u64> {
        Ok(self.runner()?.put(bytes)?.0)
    }

    /// `count` zeroed bytes, likewise.
    pub(crate) fn room(&mut self, count: usize) -> Result<u64> {
        Ok(self.runner()?.room(count)?.0)
    }

    /// Reads what a batch left in its arguments.
    pub(crate) fn get(&mut self, at: u64, into: &mut [u8]) -> Result<()> {
        Ok(self.runner()?.get(VirtAddr(at), into)?)
    }

    /// The two that make tasks.
    pub(crate) fn leader_and_runner(&mut self) -> Result<(&mut Stopped, &mut Runner)> {
        let gone = Error::Call { task: self.id, act: NO_SCRATCH, errno: Errno::EFAULT };
        match (self.threads.first_mut(), self.runner.as_mut()) {
            (Some(leader), Some(runner)) => Ok((leader, runner)),
            _ => Err(gone),
        }
    }

    pub(crate) fn runner(&mut self) -> Result<&mut Runner> {
        self.runner.as_mut().ok_or(Error::Call {
            task: self.id,
            act: NO_SCRATCH,
            errno: Errno::EFAULT,
        })
    }

    /// Lets thread number `thread` make the calls; answers what they returned.
    ///
    /// What was put for them is forgotten, except that [`Process::get`] may still read it.
    pub(crate) fn run(&mut self, thread: usize, mut batch: Batch) -> Result<Vec<i64>> {
        if batch.calls.is_empty() {
            return Ok(Vec::new());
        }
        let Some(runner) = self.runner.as_mut() else {
            return Err(Error::Call { task: self.id, act: NO_SCRATCH, errno: Errno::EFAULT });
        };
        let outcome = runner.batch(&mut self.threads[thread], &mut batch.calls);
        runner.reset();
        outcome?;
        for (call, note) in batch.calls.iter().zip(&batch.notes) {
            match call.value() {
                Ok(_) => {}
                Err(errno) if note.may_fail => {
                    tracing::warn!(task = self.ids[thread].0, act = note.act, %errno, "not restored");
                }
                Err(errno) => {
                    return Err(Error::Call { task: self.ids[thread], act: note.act, errno });
                }
            }
        }
        Ok(batch.calls.iter().map(|call| call.ret).collect())
    }

    /// One call by the leader.
    pub(crate) fn call(
        &mut self,
        act: &'static str,
        nr: libc::c_long,
        args: &[u64],
    ) -> Result<u64> {
        let mut batch = Batch::default();
        batch.must(act, nr, args);
        let answers = self.run(0, batch)?;
        Ok(answers.first().copied().unwrap_or_default().cast_unsigned())
    }
}
