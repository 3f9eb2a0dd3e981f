//! What people really run, started so that it can move, and asked as its users would ask it.

mod etcd;
mod nginx;
mod pipeline;
mod postgres;
mod redis;
mod sqlite;
mod tmux;

pub use etcd::Etcd;
pub use nginx::Nginx;
pub use pipeline::{Pipeline, counted};
pub use postgres::Postgres;
pub use redis::{Busy, Redis};
pub use sqlite::Transaction;
pub use tmux::Tmux;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::host::Host;
use crate::running::{GLANCE, Running};
use crate::{Lab, LabError, Result};

/// How long a program may take to start, or to answer.
const SOON: Duration = Duration::from_secs(30);

/// A new directory that both hosts see: a program's files are on both.
fn folder(lab: &Lab, name: &str) -> Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = lab.shared().join(format!("{name}-{number}"));
    std::fs::create_dir(&folder).map_err(LabError::file("make", &folder))?;
    Ok(folder)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(LabError::file("write", path))
}

/// What the server on `server` answers to an HTTP request that closes the connection, head and all.
fn http(from: &Host, server: &Host, port: u16, request: &str) -> Result<String> {
    let mut ask = Command::new("bash");
    let connect = format!("exec 3<>/dev/tcp/{}/{port}", server.addr());
    ask.arg("-c").arg(format!("{connect} && printf %s \"$0\" >&3 && exec cat <&3")).arg(request);
    Ok(String::from_utf8_lossy(&from.run(ask)?.stdout).into_owned())
}

/// Look again and again until `look` finds something. For what gives no event.
fn until<T>(what: &str, running: &Running, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + SOON;
    loop {
        let ended = running.ended();
        if let Some(found) = look() {
            return Ok(found);
        }
        if let Some(status) = ended {
            let (what, ended) = (what.to_owned(), status.to_string());
            return Err(LabError::Ended { what, ended, logs: running.logs() });
        }
        if Instant::now() >= end {
            let what = what.to_owned();
            return Err(LabError::Deadline { what, within: SOON, logs: running.logs() });
        }
        std::thread::sleep(GLANCE);
    }
}
