//! redis-server with both kinds of persistence on.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use super::{SOON, folder, until, write};
use crate::host::{Host, in_session};
use crate::running::Running;
use crate::{Lab, Result};

const PORT: &str = "6379";
/// The data base whose keys are checked, and the one that a busy client writes to.
const KEPT: &str = "0";
const BUSY: &str = "1";

/// A redis-server: append-only file and snapshots on, its files in a directory of both hosts.
#[derive(Debug)]
pub struct Redis {
    running: Running,
    folder: PathBuf,
}

/// A client that counts without pause, until its server goes away.
#[derive(Debug)]
pub struct Busy(Running);

impl Redis {
    /// Start it on `host` and wait until it answers.
    pub fn start(lab: &Lab, host: &Host, pid: i32) -> Result<Self> {
        let folder = folder(lab, "redis")?;
        let mut command = in_session("redis-server");
        command.args(["--port", PORT, "--bind", "0.0.0.0", "--protected-mode", "no"]);
        command.args(["--daemonize", "no", "--logfile", "log", "--enable-debug-command", "yes"]);
        command.args(["--appendonly", "yes", "--save", "60 1000"]);
        command.arg("--dir").arg(&folder);
        host.next_pid(pid)?;
        let running = host.spawn_quiet(command)?;
        let redis = Self { running, folder };
        until("redis-server answer", &redis.running, || {
            redis.info(host, host, "redis_version").ok()
        })?;
        Ok(redis)
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// The process that was started.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Set `count` keys of 64 bytes each, through a client.
    pub fn fill(&self, host: &Host, count: u32) -> Result<()> {
        let mut commands = String::new();
        for key in 0..count {
            let (key, value) = (format!("key:{key:08}"), format!("{:064x}", u64::from(key) * 7919));
            let (k, v) = (key.len(), value.len());
            let _ = write!(commands, "*3\r\n$3\r\nSET\r\n${k}\r\n{key}\r\n${v}\r\n{value}\r\n");
        }
        let file = self.folder.join("commands");
        write(&file, &commands)?;
        let mut pipe = Command::new("sh");
        pipe.args(["-c", &format!("exec redis-cli -p {PORT} -n {KEPT} --pipe < \"$0\"")])
            .arg(&file);
        host.run(pipe)?;
        // A snapshot that is being written is a child of its own; it is not what is tested here.
        until("redis-server rest", &self.running, || {
            let idle = |field| self.info(host, host, field).is_ok_and(|value| value == "0");
            (idle("rdb_bgsave_in_progress") && idle("aof_rewrite_in_progress")).then_some(())
        })
    }

    /// One command, typed on `from`, for the server on `server`.
    pub fn ask(&self, from: &Host, server: &Host, words: &[&str]) -> Result<String> {
        let mut command = cli(server, KEPT);
        command.args(words);
        let output = from.run(command)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// One field of INFO.
    pub fn info(&self, from: &Host, server: &Host, field: &str) -> Result<String> {
        let all = self.ask(from, server, &["INFO"])?;
        let line = all.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(line.unwrap_or_default().trim().to_owned())
    }

    /// A client on `from` that counts in the server on `server`, which has counted to `so_far`;
    /// returns once it is under way.
    pub fn busy(&self, from: &Host, server: &Host, so_far: u64) -> Result<Busy> {
        let mut command = cli(server, BUSY);
        command.args(["-r", "-1", "-i", "0.001", "INCR", "hits"]);
        let client = from.spawn(command)?;
        let tenth = (so_far + 10).to_string();
        client.wait_line("a tenth hit", SOON, |line| (line == tenth).then_some(()))?;
        Ok(Busy(client))
    }

    /// A redis-benchmark on `host` that writes to the data base of clients until its server is gone;
    /// returns once it has.
    pub fn benchmark(&self, host: &Host) -> Result<Running> {
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", "127.0.0.1", "-p", PORT, "--dbnum", BUSY, "-t", "set", "-d", "512"]);
        command.args(["-c", "8", "-r", "20000", "-n", "1000000000", "-q"]);
        let load = host.spawn_quiet(command)?;
        until("redis-benchmark write", &load, || {
            let keys = self.info(host, host, &format!("db{BUSY}")).ok()?;
            keys.starts_with("keys=").then_some(())
        })?;
        Ok(load)
    }

    /// How far clients have counted.
    pub fn hits(&self, from: &Host, server: &Host) -> Result<u64> {
        let mut command = cli(server, BUSY);
        command.args(["GET", "hits"]);
        let output = from.run(command)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0))
    }

    /// Forget what clients have counted.
    pub fn forget_hits(&self, from: &Host, server: &Host) -> Result<()> {
        let mut command = cli(server, BUSY);
        command.arg("FLUSHDB");
        from.run(command).map(drop)
    }
}

impl Busy {
    /// End it; the last number that the server has acknowledged.
    pub fn acknowledged(self) -> Result<u64> {
        self.0.kill()?;
        self.0.stdout().wait_end(SOON);
        let numbers = self.0.stdout().lines();
        Ok(numbers.iter().filter_map(|line| line.parse().ok()).next_back().unwrap_or(0))
    }
}

fn cli(server: &Host, data_base: &str) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-h", &server.addr().to_string(), "-p", PORT, "-n", data_base]);
    command
}
