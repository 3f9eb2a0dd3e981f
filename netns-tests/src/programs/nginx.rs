//! nginx: a master, two workers of another user, a listening socket that all of them hold.

use std::path::PathBuf;

use super::{folder, http, until, write};
use crate::host::{Host, in_session};
use crate::running::Running;
use crate::{Lab, Result};

const PORT: u16 = 8080;
const WORKERS: usize = 2;

/// A running nginx whose only page is a word.
#[derive(Debug)]
pub struct Nginx {
    running: Running,
    folder: PathBuf,
}

impl Nginx {
    /// Start it on `host` with the page `word`, and wait until it serves.
    pub fn start(lab: &Lab, host: &Host, pid: i32, word: &str) -> Result<Self> {
        let folder = folder(lab, "nginx")?;
        let mut command = in_session("nginx");
        command.arg("-p").arg(&folder).arg("-c").arg(folder.join("conf"));
        command.arg("-e").arg(folder.join("errors"));
        let configure = configuration(&folder, word);
        write(&folder.join("conf"), &configure)?;
        host.next_pid(pid)?;
        let nginx = Self { running: host.spawn_quiet(command)?, folder };
        until("nginx serve", &nginx.running, || nginx.page(host, host).ok().filter(|p| p == word))?;
        Ok(nginx)
    }

    /// The master.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// The process that was started.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The page, as `from` gets it from the nginx on `server`.
    pub fn page(&self, from: &Host, server: &Host) -> Result<String> {
        let answer = http(from, server, PORT, "GET / HTTP/1.0\r\n\r\n")?;
        Ok(answer.split_once("\r\n\r\n").map_or("", |(_, page)| page).trim().to_owned())
    }

    /// The worker processes on `host`.
    pub fn workers(&self, host: &Host) -> Vec<i32> {
        let pids = host.pids().into_iter();
        pids.filter(|one| one.comm == "nginx" && one.pid != self.pid()).map(|one| one.pid).collect()
    }

    /// Give it another page, and tell the master on `host` to read its configuration again. Returns
    /// when only new workers are there and serve it. `parent` is what ends when nginx does.
    pub fn reload(&self, host: &Host, parent: &Running, word: &str) -> Result<()> {
        let old = self.workers(host);
        write(&self.folder.join("conf"), &configuration(&self.folder, word))?;
        host.signal(self.pid(), nix::sys::signal::Signal::SIGHUP)?;
        until("nginx serve the new page from new workers", parent, || {
            let new = self.workers(host);
            let replaced = new.len() == WORKERS && new.iter().all(|pid| !old.contains(pid));
            (replaced && self.page(host, host).is_ok_and(|page| page == word)).then_some(())
        })
    }
}

fn configuration(folder: &std::path::Path, word: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off; worker_processes {WORKERS}; user nobody nogroup; pid {folder}/pid;\n\
         error_log {folder}/errors; events {{ worker_connections 64; }}\n\
         http {{ access_log {folder}/access; client_body_temp_path {folder}/body;\n\
         proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;\n\
         uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;\n\
         server {{ listen {PORT}; location / {{ return 200 \"{word}\\n\"; }} }} }}\n"
    )
}
