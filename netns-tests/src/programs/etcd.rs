//! etcd: a program in Go, with many threads, a data base mapped beyond its end, and connections to itself.

use std::path::PathBuf;

use super::{folder, http, until};
use crate::host::{Host, in_session};
use crate::running::Running;
use crate::{Lab, Result};

const PORT: u16 = 2379;

/// A lone etcd.
#[derive(Debug)]
pub struct Etcd {
    running: Running,
    _folder: PathBuf,
}

impl Etcd {
    /// Start it on `host` and wait until it leads itself.
    pub fn start(lab: &Lab, host: &Host, pid: i32) -> Result<Self> {
        let folder = folder(lab, "etcd")?;
        let mut command = in_session("etcd");
        command.arg("--data-dir").arg(folder.join("data"));
        command.arg("--listen-client-urls").arg(format!("http://0.0.0.0:{PORT}"));
        command.arg("--advertise-client-urls").arg(format!("http://127.0.0.1:{PORT}"));
        command.args([
            "--listen-peer-urls",
            "http://127.0.0.1:2380",
            "--logger=zap",
            "--log-outputs",
        ]);
        command.arg(folder.join("log"));
        host.next_pid(pid)?;
        let etcd = Self { running: host.spawn_quiet(command)?, _folder: folder };
        until("etcd take a value", &etcd.running, || etcd.put(host, host, "MQ==").ok().flatten())?;
        Ok(etcd)
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// The process that was started.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Gives its only key another value, in base64; the revision of the data base after that.
    pub fn put(&self, from: &Host, server: &Host, value: &str) -> Result<Option<u64>> {
        let answer =
            call(from, server, "kv/put", &format!(r#"{{"key":"a2V5","value":"{value}"}}"#))?;
        Ok(field(&answer, "revision").and_then(|revision| revision.parse().ok()))
    }

    /// The value of its only key, in base64.
    pub fn get(&self, from: &Host, server: &Host) -> Result<Option<String>> {
        let answer = call(from, server, "kv/range", r#"{"key":"a2V5"}"#)?;
        Ok(field(&answer, "value"))
    }

    /// A lease for so many seconds, with this number.
    pub fn grant(&self, from: &Host, server: &Host, number: u32, seconds: u32) -> Result<()> {
        let wanted = format!(r#"{{"ID":{number},"TTL":{seconds}}}"#);
        call(from, server, "lease/grant", &wanted).map(drop)
    }

    /// Seconds that are left of a lease.
    pub fn left(&self, from: &Host, server: &Host, number: u32) -> Result<Option<u64>> {
        let wanted = format!(r#"{{"ID":{number}}}"#);
        let answer = call(from, server, "lease/timetolive", &wanted)?;
        Ok(field(&answer, "TTL").and_then(|left| left.parse().ok()))
    }
}

fn call(from: &Host, server: &Host, what: &str, body: &str) -> Result<String> {
    let length = body.len();
    let head = format!("POST /v3/{what} HTTP/1.1\r\nHost: it\r\nConnection: close\r\n");
    http(from, server, PORT, &format!("{head}Content-Length: {length}\r\n\r\n{body}"))
}

/// The text of a field, by its name.
fn field(answer: &str, name: &str) -> Option<String> {
    let (_, rest) = answer.split_once(&format!("\"{name}\":\""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}
