//! What could not be done to which task, and why.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use pages::VirtAddr;

use crate::HostPid;

/// Short for a result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What failed, at which task. Messages read after "failed to".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The task ended (perhaps killed) while we held it or tried to.
    #[error("keep hold of task {pid}: it has died")]
    Died {
        /// Which.
        pid: HostPid,
    },
    /// The kernel refused.
    #[error("{act} task {pid}: {errno}")]
    Os {
        /// What was asked, as a verb.
        act: &'static str,
        /// Of which task.
        pid: HostPid,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A call of this process itself failed.
    #[error("{act}: {errno}")]
    Own {
        /// What was asked, as a verb with its object.
        act: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A system call made by the task on our behalf was refused.
    #[error("{act} inside task {pid}: {errno}")]
    Injected {
        /// What was asked, as a verb.
        act: &'static str,
        /// Inside which task.
        pid: HostPid,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A file of /proc could not be read or written.
    #[error("access {}: {source}", path.display())]
    Proc {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of /proc does not say what Linux is known to say there.
    #[error("understand {field} in {file}: {text:?}")]
    Parse {
        /// The kind of file, e.g. `/proc/PID/maps`.
        file: &'static str,
        /// Which field.
        field: &'static str,
        /// What stood there (at most a line).
        text: String,
    },
    /// Another debugger or checkpointer has the task.
    #[error("seize task {pid}: task {tracer} is tracing it already")]
    TracedBy {
        /// Which task.
        pid: HostPid,
        /// Its tracer.
        tracer: HostPid,
    },
    /// The task did not come to a stop in time: it sleeps in the kernel and cannot be disturbed, or
    /// gets no CPU. It stops when it wakes, so the tracing thread should end to set it free.
    #[error("stop task {pid} in time")]
    Deadline {
        /// Which task.
        pid: HostPid,
    },
    /// Not a 64-bit x86 program at this moment.
    #[error("make task {pid} call the kernel: it runs code that is not 64-bit x86")]
    NotX64 {
        /// Which task.
        pid: HostPid,
    },
    /// The stub that makes the task call the kernel was hit by a signal it cannot cause.
    #[error("run the call stub in task {pid}: signal {signal} at {at}")]
    Stub {
        /// Which task.
        pid: HostPid,
        /// The signal.
        signal: i32,
        /// Where the task was.
        at: VirtAddr,
    },
    /// Every signal that could mark the end of the stub is pending already.
    #[error("find a signal that is not pending for task {pid}")]
    NoFreeSignal {
        /// Which task.
        pid: HostPid,
    },
    /// The scratch memory inside the task is full.
    #[error("reserve {wanted} bytes of scratch memory: {left} are left")]
    ScratchFull {
        /// Asked for.
        wanted: usize,
        /// Left.
        left: usize,
    },
    /// Memory of the task could not be reached.
    #[error("access {len} bytes at {at} of task {pid}: {source}")]
    Memory {
        /// Which task.
        pid: HostPid,
        /// First byte.
        at: VirtAddr,
        /// How many bytes.
        len: usize,
        /// Why.
        source: io::Error,
    },
    /// Extended state uses a component this CPU (or kernel) does not have, or has in another size.
    #[error(
        "set processor state component {component}: this CPU has it in {here} bytes, not {given}"
    )]
    XComponent {
        /// Number as in CPUID leaf 0xD.
        component: u8,
        /// Bytes given.
        given: usize,
        /// Bytes here; zero if it does not exist here.
        here: usize,
    },
    /// Another task has the pid that was asked for.
    #[error("make a task with pid {pid}: the number is taken")]
    PidTaken {
        /// Which, in the namespace of the new task.
        pid: i32,
    },
    /// The new task is nowhere to be found under /proc.
    #[error("find the new task {pid} among those of process {parent}")]
    NewTaskLost {
        /// Its number in its own namespace.
        pid: u32,
        /// Whose child or thread it should be.
        parent: HostPid,
    },
    /// userfaultfd of this kernel is too old.
    #[error("use userfaultfd: this kernel does not offer {lacks:?}")]
    UffdLacks {
        /// What it does not offer of what is needed.
        lacks: crate::uffd::Features,
    },
    /// This kernel has no way to note writes while a process runs.
    #[error("note what the process writes while it runs: this kernel lacks {lacks}")]
    Untrackable {
        /// What is missing.
        lacks: &'static str,
    },
    /// The keeper process could not be started, or has died.
    #[error("{act} the keeper process: {source}")]
    Keeper {
        /// What was tried, as a verb.
        act: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A task under construction gave something unexpected.
    #[error("bring the new task {pid} to its first stop")]
    NotStarted {
        /// Which.
        pid: HostPid,
    },
}

impl Error {
    /// For `map_err`: the kernel refused `act` on task `pid`; a vanished task has died.
    pub(crate) fn os(act: &'static str, pid: HostPid) -> impl FnOnce(Errno) -> Self {
        move |errno| match errno {
            Errno::ESRCH => Self::Died { pid },
            errno => Self::Os { act, pid, errno },
        }
    }

    /// For `map_err`: a file under /proc.
    pub(crate) fn proc(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Proc { path: path.into(), source }
    }

    /// True if the reason is that the task is gone.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Died { .. } => true,
            Self::Proc { source, .. } | Self::Memory { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::ESRCH | libc::ENOENT))
            }
            _ => false,
        }
    }
}
