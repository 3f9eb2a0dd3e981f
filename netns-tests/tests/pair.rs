//! `qmig lab run --source ssh:… --destination ssh:…`: between two hosts with a real OpenSSH each, whose
//! keys are made for this test and gone with it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use netns_tests::{Host, Lab, Link, Running, qmig_binary, requirements};
use serde_json::Value;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(180);

const EXPERIMENT: &str = "
name = 'pair'
repetitions = 1
ways = ['stop', 'post-copy', 'criu-stop']
loads = ['toucher mib 4 threads 1 random 100']
links = [{ words = 'lan' }, { words = 'metro' }]
";

/// sshd wants a directory in /run, which the hosts share with this machine: it gets a /run of its own, with
/// the host's files where they were.
const SSHD: &str = "
set -e
mount -t tmpfs t /mnt
mkdir -p /mnt/sshd \"/mnt/${1#/run/}\"
mount -n --bind \"$1\" \"/mnt/${1#/run/}\"
mount -n --move /mnt /run
exec /usr/sbin/sshd -D -e -f \"$2\"
";

/// Keys, and the configuration of either side.
struct Keys {
    folder: PathBuf,
}

impl Keys {
    fn make(folder: &Path) -> Result<Self, Box<dyn Error>> {
        for name in ["host", "user"] {
            let mut make = Command::new("ssh-keygen");
            make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(name));
            let made = make.output()?;
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Start an sshd on `host`.
    fn serve(&self, host: &Host) -> Result<Running, Box<dyn Error>> {
        let config = self.folder.join(format!("sshd-{}", host.name()));
        let [key, allowed] = ["host", "user.pub"].map(|name| self.folder.join(name));
        let text = format!(
            "ListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nPermitRootLogin prohibit-password\n\
             PasswordAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\n",
            host.addr(),
            key.display(),
            allowed.display()
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SSHD, "sshd"]).arg(host.scratch()).arg(&config);
        let sshd = host.spawn(command)?;
        let listens = |line: &str| line.contains("listening").then_some(());
        assert!(sshd.stderr().find(SOON, listens).is_some(), "{}", sshd.logs());
        Ok(sshd)
    }

    /// What `ssh` is called with to trust these hosts and be trusted.
    fn ssh(&self, hosts: [&Host; 2]) -> Result<String, Box<dyn Error>> {
        let [known, config, key] = ["known", "ssh", "user"].map(|name| self.folder.join(name));
        let public = std::fs::read_to_string(self.folder.join("host.pub"))?;
        std::fs::write(&known, hosts.map(|host| format!("{} {public}", host.addr())).concat())?;
        let text = format!(
            "User root\nIdentityFile {}\nIdentitiesOnly yes\nBatchMode yes\nUserKnownHostsFile {}\n",
            key.display(),
            known.display()
        );
        std::fs::write(&config, text)?;
        Ok(format!("ssh -F {}", config.display()))
    }
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn trials_between_two_hosts_reached_by_ssh() -> Outcome {
    if requirements::missing(&["/usr/sbin/sshd", "ssh", "ssh-keygen"])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
    {
        return Ok(());
    }
    let lab = Lab::plan().link("rate=200Mbit rtt=10ms".parse::<Link>()?).build()?;
    let keys = Keys::make(lab.shared())?;
    let (_src, _dst) = (keys.serve(lab.src())?, keys.serve(lab.dst())?);
    let ssh = keys.ssh([lab.src(), lab.dst()])?;
    let (file, out) = (lab.shared().join("pair.toml"), lab.shared().join("out"));
    std::fs::write(&file, EXPERIMENT)?;
    let run = |destination: &str| -> Result<Output, Box<dyn Error>> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qmig-lab"));
        command.arg("run").arg(&file).arg("--out").arg(&out).env("QMIG_BIN", qmig_binary()?);
        command.arg("--source").arg(format!("ssh:root@{}", lab.src().addr()));
        command.args(["--destination", destination, "--ssh", &ssh, "--folder"]);
        command.arg(lab.src().scratch());
        let since = std::time::Instant::now();
        let output = lab.src().spawn(command)?.output(SOON)?;
        println!("{destination}: {:?}\n{}", since.elapsed(), said(&output));
        Ok(output)
    };
    let destination = format!("ssh:root@{}", lab.dst().addr());
    let ran = run(&destination)?;
    assert!(
        ran.status.success() && said(&ran).contains("2 trials, 2 of them are left"),
        "{}",
        said(&ran)
    );
    assert!(said(&ran).contains("left out: CRIU"), "{}", said(&ran));

    let records = std::fs::read_to_string(out.join("records.ndjson"))?;
    let records: Vec<Value> =
        records.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(records.len(), 2);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    for record in &records {
        println!("{record}");
        assert_eq!(record["error"], Value::Null, "{record}");
        assert_eq!(record["link"], "pair");
        for machine in ["machine", "destination_machine"] {
            assert_eq!(record[machine]["kernel"], kernel.trim(), "{record}");
            assert!(record[machine]["qmig"].as_str().is_some_and(|name| name.starts_with("qmig ")));
        }
        let numbers = [
            "/downtime_us",
            "/total_us",
            "/running_us",
            "/felt_us",
            "/lanes/bulk/sent_bytes",
            "/up/packets",
            "/up/bytes",
            "/source/cpu_us",
            "/source/peak_kib",
            "/destination/cpu_us",
            "/destination/peak_kib",
        ];
        for number in numbers {
            let number = record.pointer(number).and_then(Value::as_u64).ok_or(number)?;
            assert!(number > 0, "{record}");
        }
        assert!(
            record.pointer("/probe/rtt/min_us").and_then(Value::as_u64) >= Some(10_000),
            "{record}"
        );
    }
    assert!(records[1].pointer("/waits/count").and_then(Value::as_u64).is_some(), "{}", records[1]);

    // Nothing stays there, and nothing is left to do.
    for host in [lab.src(), lab.dst()] {
        let left: Vec<_> = std::fs::read_dir(host.path(host.scratch()))?
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| name.to_string_lossy().starts_with("qmig-lab-"))
            .collect();
        assert!(left.is_empty(), "{left:?} on {}", host.name());
        assert!(host.pids().iter().all(|process| process.comm != "toucher"), "on {}", host.name());
    }
    assert!(said(&run(&destination)?).contains("0 of them are left"));
    // Nobody is there.
    let nobody = run("ssh:root@127.0.0.9")?;
    assert!(!nobody.status.success() && said(&nobody).contains("127.0.0.9"), "{}", said(&nobody));
    Ok(())
}
