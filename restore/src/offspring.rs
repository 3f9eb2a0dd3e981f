//! A restored tree that runs: its root is our child, or the pid 1 above it is.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::sync::oneshot;
use tracee::HostPid;

use crate::build::Running;

/// A tree that runs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offspring {
    root: HostPid,
    child: HostPid,
}

impl From<Running> for Offspring {
    fn from(running: Running) -> Self {
        Self { root: running.root, child: running.child }
    }
}

/// How a tree ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By exit(2).
    Exited(u8),
    /// By a signal.
    Signalled(u8),
    /// Somebody else has reaped it.
    Unknown,
}

impl Ended {
    /// As a shell says it: the exit status, or 128 and the number of the signal.
    pub fn status(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Signalled(signal) => 128_u8.saturating_add(signal),
            Self::Unknown => 0,
        }
    }
}

impl Offspring {
    /// Its root, as this host knows it.
    pub fn root(self) -> HostPid {
        self.root
    }

    /// Passes a signal on. A tree that has ended is left in peace.
    pub fn signal(self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.root.0), signal);
    }

    /// Waits for its end, on a thread of its own.
    pub async fn ended(self) -> Ended {
        let (tell, told) = oneshot::channel();
        std::thread::spawn(move || {
            let _ = tell.send(wait(Pid::from_raw(self.child.0)));
        });
        told.await.unwrap_or(Ended::Unknown)
    }
}

fn wait(child: Pid) -> Ended {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, status)) => return Ended::Exited(low_byte(status)),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Ended::Signalled(low_byte(signal as i32));
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return Ended::Unknown,
        }
    }
}

fn low_byte(number: i32) -> u8 {
    u8::try_from(number & 0xff).expect("masked")
}
