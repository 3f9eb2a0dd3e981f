//! A whole migration of a large process: from the first command to the last, by each way in turn.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use netns_tests::{Criu, Lab, Migration, Started, Subject, TlsKeys};

use crate::statistics::Sample;
use crate::{Outcome, quiet};

/// The size of the process.
pub(crate) const MIB: u32 = 1024;
/// How often each way is tried.
pub(crate) const ROUNDS: usize = 5;
const SOON: Duration = Duration::from_secs(60);

/// How it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Qmig,
    /// `criu dump --page-server`, the images copied over TCP, `criu restore`. Nothing is encrypted.
    Criu,
    /// The same with `--tls` for the pages; the images are still copied in the clear.
    CriuTls,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qmig => "qmig (TLS 1.3, both ends authenticated)",
            Self::Criu => "CRIU, page server, in the clear",
            Self::CriuTls => "CRIU, page server, `--tls`",
        })
    }
}

/// The times of each way.
pub(crate) fn measure(criu: Option<&Criu>) -> Outcome<Vec<(Way, Sample)>> {
    let ways: &[Way] =
        if criu.is_some() { &[Way::Qmig, Way::Criu, Way::CriuTls] } else { &[Way::Qmig] };
    let mut times = vec![Vec::new(); ways.len()];
    for round in 0..ROUNDS {
        for (way, times) in ways.iter().zip(&mut times) {
            let lab = Lab::two_hosts()?;
            let subject = Subject::new("filler").arg("mib").arg(MIB).start(&lab, lab.src())?;
            quiet::wait()?;
            let time = match (way, criu) {
                (Way::Qmig, _) | (_, None) => by_qmig(&lab, &subject)?,
                (Way::Criu, Some(criu)) => by_criu(&lab, &subject, criu, None)?,
                (Way::CriuTls, Some(criu)) => {
                    let keys = TlsKeys::make(&lab, "keys", &lab.dst().addr().to_string())?;
                    by_criu(&lab, &subject, criu, Some(&keys))?
                }
            };
            eprintln!("whole, round {}: {way}: {:.3} s", round + 1, time.as_secs_f64());
            if round == 0 {
                let verdict = subject.ask_orphan(lab.dst(), subject.pid())?;
                if !verdict.passed() {
                    return Err(format!("move by {way}: {verdict}").into());
                }
            }
            times.push(time);
        }
    }
    Ok(ways.iter().copied().zip(times.into_iter().filter_map(Sample::new)).collect())
}

/// From the start of `qmig dump` to its end, when the copy runs there and none is left here.
fn by_qmig(lab: &Lab, subject: &Started) -> Outcome<Duration> {
    let listening = Migration::new(lab)?.listen()?;
    let since = Instant::now();
    let moved = listening.dump(subject.pid())?.finish()?;
    let time = since.elapsed();
    moved.succeeded()?;
    Ok(time)
}

/// From the start of `criu dump`, its page server already listening, to the end of `criu restore`.
/// All images are in memory (tmpfs) on both hosts.
fn by_criu(lab: &Lab, subject: &Started, criu: &Criu, keys: Option<&TlsKeys>) -> Outcome<Duration> {
    let (src, dst) = (lab.src(), lab.dst());
    let folder: PathBuf = src.scratch().join("images");
    for host in [src, dst] {
        std::fs::create_dir(host.path(&folder))?;
    }
    let address = dst.addr().to_string();
    let own = std::env::current_exe()?;
    let words = |verb: &str, more: &[&str]| {
        let mut command = Command::new(&own);
        command.arg(verb).arg(&folder).args(more);
        command
    };
    let server = criu.page_server(lab, &folder, keys)?;
    let receiver = dst.spawn(words("receive-images", &[]))?;
    let what = "the receiver of images";
    receiver.wait_line(what, SOON, |line| (line == "listening").then_some(()))?;

    let since = Instant::now();
    criu.dump(src, subject.pid(), &folder, Some((&address, keys)))?;
    src.run(words("send-images", &[&address]))?;
    for process in [&receiver, &server] {
        if !process.wait(SOON)?.success() {
            return Err(format!("receive images\n{}", process.logs()).into());
        }
    }
    criu.restore(dst, &folder)?;
    Ok(since.elapsed())
}
