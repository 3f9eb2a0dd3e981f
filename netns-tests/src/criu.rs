//! A stock CRIU, to stand beside: its images must be like ours, and its times are what ours are
//! measured by.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::host::Host;
use crate::lab::Side;
use crate::running::Running;
use crate::{Lab, LabError, Result, qmig_binary, requirements};

/// Where `install-criu.sh` puts it, unless `QMIG_CRIU` names another.
const INSTALLED: &str = "/opt/qmig-criu/sbin/criu";
/// The same for one that is older than 4.2, whose page server speaks otherwise.
const OLDER: &str = "/opt/qmig-criu-4.1/sbin/criu";
/// The port of its page server.
const PORT: &str = "9876";
/// How long a page server may take until it listens.
const LISTEN: Duration = Duration::from_secs(20);

/// A CRIU on this machine.
#[derive(Clone, Debug)]
pub struct Criu {
    program: PathBuf,
    args: Vec<String>,
}

/// An authority, and one certificate of it that both hosts use.
#[derive(Clone, Debug)]
pub struct TlsKeys {
    folder: PathBuf,
}

impl Criu {
    /// The one that is installed, if any.
    pub fn installed() -> Option<Self> {
        let program = std::env::var_os("QMIG_CRIU").map_or_else(|| INSTALLED.into(), PathBuf::from);
        program.is_file().then_some(Self { program, args: Vec::new() })
    }

    /// The one to test with, beside qmig and these programs; else the test is skipped, and says why.
    pub fn to_test_with(programs: &[&str]) -> Option<Self> {
        if requirements::missing(programs)
            || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
        {
            return None;
        }
        let criu = Self::installed();
        if criu.is_none() {
            let _ = requirements::skip("no CRIU here (netns-tests/install-criu.sh /opt/qmig-criu)");
        }
        criu
    }

    /// One from before 4.2 to test with, whose page server speaks with shorter headers.
    pub fn older_to_test_with(programs: &[&str]) -> Option<Self> {
        Self::to_test_with(programs)?;
        let older = Self { program: OLDER.into(), args: Vec::new() };
        if older.program.is_file() {
            return Some(older);
        }
        let how = "netns-tests/install-criu.sh /opt/qmig-criu-4.1 trixie 4.1";
        let _ = requirements::skip(&format!("no CRIU 4.1 here ({how})"));
        None
    }

    /// The same for what is done with containers.
    pub fn for_containers(programs: &[&str]) -> Option<Self> {
        Self::to_test_with(&[programs, &["busybox", "ip"]].concat())
    }

    /// One more argument for each dump and restore.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Where it is.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What it calls itself: `4.1.1`.
    pub fn version(&self) -> Result<String> {
        let program = self.program.display().to_string();
        let output = Command::new(&self.program).arg("--version").output();
        let output = output.map_err(|source| LabError::Spawn { program, source })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        Ok(version.unwrap_or("unknown").trim().to_owned())
    }

    /// `criu dump` of the tree of `pid` into `folder`. With `server`, pages go to the page server
    /// at that address.
    pub fn dump(
        &self,
        host: &Host,
        pid: i32,
        folder: &Path,
        server: Option<(&str, Option<&TlsKeys>)>,
    ) -> Result<()> {
        let mut command = self.command("dump", folder);
        command.arg("--tree").arg(pid.to_string()).args(&self.args);
        if let Some((address, keys)) = server {
            command.args(["--page-server", "--address", address, "--port", PORT]);
            keys.into_iter().for_each(|keys| keys.add_to(&mut command));
        }
        self.run(host, command, folder)
    }

    /// `criu restore` from `folder`; the tree is left to process 1 of the host.
    pub fn restore(&self, host: &Host, folder: &Path) -> Result<()> {
        let mut command = self.command("restore", folder);
        command.arg("--restore-detached").args(&self.args);
        self.run(host, command, folder)
    }

    /// `criu page-server` into `folder` of the destination, once it listens. It serves one dump and
    /// ends.
    pub fn page_server(&self, lab: &Lab, folder: &Path, keys: Option<&TlsKeys>) -> Result<Running> {
        let address = lab.host(Side::Destination).addr().to_string();
        let mut command = self.command("page-server", folder);
        command.args(["--address", &address, "--port", PORT]);
        keys.into_iter().for_each(|keys| keys.add_to(&mut command));
        once_it_listens(lab.host(Side::Destination), folder, "criu's page server", command)
    }

    /// `criu dump --lazy-pages` of the tree of `pid` into `folder`, once its images are complete and
    /// it serves pages. It ends when all are fetched.
    pub fn dump_lazily(
        &self,
        host: &Host,
        pid: i32,
        folder: &Path,
        keys: Option<&TlsKeys>,
    ) -> Result<Running> {
        let mut command = self.command("dump", folder);
        command.arg("--tree").arg(pid.to_string()).arg("--lazy-pages").args(&self.args);
        command.args(["--address", &host.addr().to_string(), "--port", PORT]);
        keys.into_iter().for_each(|keys| keys.add_to(&mut command));
        once_it_listens(host, folder, "criu serve pages", command)
    }

    /// `criu lazy-pages` on `host`, once it waits for [`Criu::restore_lazily`]. It fetches from `from`
    /// and ends when it has everything.
    pub fn lazy_pages(
        &self,
        host: &Host,
        from: &Host,
        folder: &Path,
        keys: Option<&TlsKeys>,
    ) -> Result<Running> {
        let mut command = self.command("lazy-pages", folder);
        command.arg("--work-dir").arg(folder).arg("--page-server");
        command.args(["--address", &from.addr().to_string(), "--port", PORT]);
        keys.into_iter().for_each(|keys| keys.add_to(&mut command));
        once_it_listens(host, folder, "criu lazy-pages", command)
    }

    /// `criu restore --lazy-pages` from `folder`; the tree is left to process 1 of the host.
    pub fn restore_lazily(&self, host: &Host, folder: &Path) -> Result<()> {
        let mut command = self.command("restore", folder);
        command.args(["--restore-detached", "--lazy-pages", "--work-dir"]).arg(folder);
        command.args(&self.args);
        self.run(host, command, folder)
    }

    fn command(&self, verb: &str, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb).arg("--images-dir").arg(folder).args(["-v2", "--log-file"]);
        command.arg(format!("{verb}.log"));
        command
    }

    /// Its reasons are in its log file.
    fn run(&self, host: &Host, command: Command, folder: &Path) -> Result<()> {
        let verb = command.get_args().next().unwrap_or_default().to_string_lossy().into_owned();
        host.run(command).map(drop).map_err(|error| match error {
            LabError::Command { line, status, output } => {
                let log = host.path(folder).join(format!("{verb}.log"));
                let log = std::fs::read_to_string(log).unwrap_or_default();
                LabError::Command { line, status, output: output + &log }
            }
            other => other,
        })
    }
}

/// Start it with `--status-fd`, and wait for the zero byte that comes when it listens: od makes a line
/// of it. od is an orphan, for a dump would stumble over a child that it does not know.
fn once_it_listens(host: &Host, folder: &Path, what: &str, command: Command) -> Result<Running> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut shell = Command::new("sh");
    let line = "mkfifo \"$0\" && (exec od -An -tx1 -N1 -w1 <\"$0\" &) && exec 3>\"$0\" && \
                rm \"$0\" && exec \"$@\" --status-fd 3";
    shell.args(["-c", line]).arg(folder.join("status")).args(words);
    let running = host.spawn(shell)?;
    running.wait_line(what, LISTEN, |line| line.contains("00").then_some(()))?;
    Ok(running)
}

impl TlsKeys {
    /// Made by openssl, in the folder `name` of the lab's shared directory, for the host at
    /// `address`.
    pub fn make(lab: &Lab, name: &str, address: &str) -> Result<Self> {
        let folder = lab.shared().join(name);
        std::fs::create_dir_all(&folder).map_err(LabError::file("make", &folder))?;
        let mut shell = Command::new("sh");
        let new = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -sha256";
        shell.args([
            "-ec",
            &format!(
                "cd {}; {new} -subj /CN=authority -keyout ca.key -out ca.pem; \
             {new} -subj /CN=host -addext subjectAltName=IP:{address} \
             -addext basicConstraints=critical,CA:FALSE \
             -CA ca.pem -CAkey ca.key -keyout key.pem -out cert.pem",
                folder.display()
            ),
        ]);
        lab.src().run(shell)?;
        Ok(Self { folder })
    }

    /// Where `ca.pem`, `cert.pem` and `key.pem` are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn add_to(&self, command: &mut Command) {
        command.args(["--tls", "--tls-no-cn-verify"]);
        for (option, file) in
            [("--tls-cacert", "ca.pem"), ("--tls-cert", "cert.pem"), ("--tls-key", "key.pem")]
        {
            command.arg(option).arg(self.folder.join(file));
        }
    }
}
