//! The same migration by a stock CRIU: everything in memory (tmpfs), images copied over TCP.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::clock::Clock;
use super::failed;
use super::service;
use crate::criu::{Criu, TlsKeys};
use crate::init::beside_current_exe;
use crate::lab::{Lab, Side};
use crate::running::Running;
use crate::subject::Started;
use crate::{LabError, Result};

const SOON: Duration = Duration::from_secs(60);

/// `criu dump --page-server`, its images copied, `criu restore`.
pub(super) fn stop(lab: &Lab, subject: &Started, tls: bool, clock: &mut Clock<'_>) -> Result<()> {
    let (criu, folder) = prepare(lab)?;
    let (src, dst) = (lab.src(), lab.dst());
    let keys = tls.then(|| TlsKeys::make(lab, "keys", &dst.addr().to_string())).transpose()?;
    let server = criu.page_server(lab, &folder, keys.as_ref())?;
    let receiver = receiver(lab, &folder)?;
    clock.began();
    let address = dst.addr().to_string();
    criu.dump(src, subject.pid(), &folder, Some((&address, keys.as_ref())))?;
    clock.phase("dump");
    send(lab, &folder)?;
    ended_well(&receiver)?;
    ended_well(&server)?;
    clock.phase("images");
    arrive(lab)?;
    criu.restore(dst, &folder)?;
    runs(lab)?;
    clock.phase("restore");
    clock.running()?;
    clock.complete()
}

/// `criu dump --lazy-pages`, its images copied, `criu lazy-pages`, `criu restore --lazy-pages`.
pub(super) fn lazy(
    lab: &Lab,
    subject: &Started,
    tls: bool,
    deadline: Duration,
    clock: &mut Clock<'_>,
) -> Result<()> {
    let _pipes = Pipes::widen()?;
    let (criu, folder) = prepare(lab)?;
    let (src, dst) = (lab.src(), lab.dst());
    let keys = tls.then(|| TlsKeys::make(lab, "keys", &src.addr().to_string())).transpose()?;
    let receiver = receiver(lab, &folder)?;
    clock.began();
    let dump = criu.dump_lazily(src, subject.pid(), &folder, keys.as_ref())?;
    clock.phase("dump");
    send(lab, &folder)?;
    ended_well(&receiver)?;
    clock.phase("images");
    arrive(lab)?;
    let daemon = criu.lazy_pages(dst, src, &folder, keys.as_ref())?;
    criu.restore_lazily(dst, &folder)?;
    runs(lab)?;
    clock.phase("restore");
    clock.running()?;
    for (side, process) in [(Side::Destination, &daemon), (Side::Source, &dump)] {
        if !process.wait(deadline)?.success() {
            let log = ["lazy-pages.log", "dump.log"].map(|name| {
                let file = lab.host(side).path(&folder).join(name);
                std::fs::read_to_string(file).unwrap_or_default()
            });
            let what = "criu move every page";
            return Err(failed(what, "it failed", process.logs() + &log.concat()));
        }
    }
    clock.phase("rest of the pages");
    clock.complete()
}

/// There is none.
pub(super) fn missing(why: &str) -> LabError {
    LabError::Missing {
        what: format!("a CRIU {why}"),
        hint: "netns-tests/install-criu.sh /opt/qmig-criu".to_owned(),
    }
}

fn prepare(lab: &Lab) -> Result<(Criu, PathBuf)> {
    let criu = Criu::installed().ok_or_else(|| missing("to compare with"))?;
    let folder = lab.src().scratch().join("images");
    for side in Side::BOTH {
        let path = lab.host(side).path(&folder);
        std::fs::create_dir(&path).map_err(LabError::file("make", path))?;
    }
    let criu = if lab.client().is_some() { service::by_criu(lab, criu)? } else { criu };
    Ok((criu, folder))
}

/// The address of a server that has clients comes along.
fn arrive(lab: &Lab) -> Result<()> {
    if lab.client().is_some() { service::arrive(lab) } else { Ok(()) }
}

fn runs(lab: &Lab) -> Result<()> {
    service::point_clients(lab, Side::Destination)
}

/// qmig-bench copies images, as CRIU's users must by themselves.
fn copier(verb: &str, folder: &Path) -> Result<Command> {
    let program = beside_current_exe("qmig-bench").ok_or_else(|| LabError::Missing {
        what: "qmig-bench beside this executable".to_owned(),
        hint: "cargo build -p netns-tests --bins".to_owned(),
    })?;
    let mut command = Command::new(program);
    command.arg(verb).arg(folder);
    Ok(command)
}

fn receiver(lab: &Lab, folder: &Path) -> Result<Running> {
    let receiver = lab.dst().spawn(copier("receive-images", folder)?)?;
    let what = "the receiver of images";
    receiver.wait_line(what, SOON, |line| (line == "listening").then_some(()))?;
    Ok(receiver)
}

fn send(lab: &Lab, folder: &Path) -> Result<()> {
    let mut command = copier("send-images", folder)?;
    command.arg(lab.dst().addr().to_string());
    lab.src().run(command).map(drop)
}

fn ended_well(process: &Running) -> Result<()> {
    let status = process.wait(SOON)?;
    if status.success() {
        return Ok(());
    }
    Err(failed("a copy end well", status, process.logs()))
}

/// A lazy dump keeps 819 pages in a pipe, more than a pipe may be on many machines. While this
/// lives, pipes may be larger; then everything is as it was.
struct Pipes {
    before: Vec<(&'static str, String)>,
}

impl Pipes {
    const FILES: [(&'static str, u64); 2] =
        [("/proc/sys/fs/pipe-max-size", 4 << 20), ("/proc/sys/fs/pipe-user-pages-soft", 0)];

    fn widen() -> Result<Self> {
        let mut pipes = Self { before: Vec::new() };
        for (file, wanted) in Self::FILES {
            let before = std::fs::read_to_string(file).map_err(LabError::file("read", file))?;
            let enough = before.trim().parse::<u64>().is_ok_and(|now| now >= wanted && wanted > 0);
            if !enough {
                std::fs::write(file, wanted.to_string()).map_err(LabError::file("write", file))?;
                pipes.before.push((file, before));
            }
        }
        Ok(pipes)
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        for (file, before) in &self.before {
            let _ = std::fs::write(file, before);
        }
    }
}
