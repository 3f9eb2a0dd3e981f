//! The load: writes without pause, remembers what was acknowledged, and reads it all back at the
//! end. A broken connection is made anew, on whichever host answers.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A connection that does not answer within this is given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// Writes before the server counts as warm, and after the move before it counts as moved.
const ENOUGH: u64 = 500;

/// What the client found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Writes that the server said OK to.
    pub(super) acknowledged: u64,
    /// Of these, on the first host.
    pub(super) before: u64,
    /// Of these, on the second host.
    pub(super) after: u64,
    /// Of these, read back wrong or not at all.
    pub(super) wrong: u64,
    /// The longest time between two acknowledged writes.
    pub(super) longest_wait_ms: u128,
}

impl Verdict {
    fn line(&self) -> String {
        let Self { acknowledged, before, after, wrong, longest_wait_ms } = self;
        format!("VERDICT {acknowledged} {before} {after} {wrong} {longest_wait_ms}")
    }

    /// The line that [`run`] prints at its end.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut numbers = line.strip_prefix("VERDICT ")?.split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        Some(Self {
            acknowledged: next()?,
            before: next()?,
            after: next()?,
            wrong: next()?,
            longest_wait_ms: next()?.into(),
        })
    }
}

/// Words: address on the first host, on the second, and the directory in which `stop` appears.
pub(super) fn run(words: &[String]) -> u8 {
    let [first, second, shared] = words else { return 2 };
    let (Ok(first), Ok(second)) = (first.parse(), second.parse()) else {
        return 2;
    };
    let mut load = Load::new([first, second], PathBuf::from(shared));
    load.write_until_stopped();
    println!("{}", load.read_back().line());
    0
}

struct Load {
    hosts: [SocketAddr; 2],
    shared: PathBuf,
    link: Option<(usize, BufReader<TcpStream>)>,
    verdict: Verdict,
}

impl Load {
    fn new(hosts: [SocketAddr; 2], shared: PathBuf) -> Self {
        Self { hosts, shared, link: None, verdict: Verdict::default() }
    }

    fn write_until_stopped(&mut self) {
        let mut last = Instant::now();
        let stop = self.shared.join("stop");
        while !(self.verdict.acknowledged.is_multiple_of(64) && Path::exists(&stop)) {
            let number = self.verdict.acknowledged;
            // A write whose answer was lost is made again: the same key, the same value.
            if self.ask(&format!("SET key-{number} {}", value_of(number))).ok().as_deref()
                != Some("OK")
            {
                self.reconnect();
                continue;
            }
            self.verdict.longest_wait_ms =
                self.verdict.longest_wait_ms.max(last.elapsed().as_millis());
            last = Instant::now();
            self.acknowledged();
        }
    }

    fn acknowledged(&mut self) {
        self.verdict.acknowledged += 1;
        let on = self.link.as_ref().map_or(0, |(host, _)| *host);
        let count = if on == 0 { &mut self.verdict.before } else { &mut self.verdict.after };
        *count += 1;
        if *count == ENOUGH {
            println!("{}", if on == 0 { "WARM" } else { "MOVED" });
        }
    }

    fn read_back(&mut self) -> Verdict {
        for number in 0..self.verdict.acknowledged {
            let answer = self.ask(&format!("GET key-{number}"));
            if answer.ok().as_deref() != Some(value_of(number).as_str()) {
                self.verdict.wrong += 1;
            }
        }
        self.verdict
    }

    fn ask(&mut self, question: &str) -> io::Result<String> {
        let Some((_, link)) = &mut self.link else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        link.get_mut().write_all(format!("{question}\n").as_bytes())?;
        let mut answer = String::new();
        if link.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer.trim_end().to_owned())
    }

    fn reconnect(&mut self) {
        self.link = None;
        for (host, addr) in self.hosts.iter().enumerate() {
            let link = TcpStream::connect_timeout(addr, PATIENCE).and_then(|link| {
                link.set_nodelay(true)?;
                link.set_read_timeout(Some(PATIENCE))?;
                Ok(link)
            });
            if let Ok(link) = link {
                self.link = Some((host, BufReader::new(link)));
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(5)); // neither host listens: it is on its way
    }
}

fn value_of(number: u64) -> String {
    format!("value-{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_survives_its_line() {
        let verdict =
            Verdict { acknowledged: 9, before: 4, after: 5, wrong: 1, longest_wait_ms: 37 };
        assert_eq!(Verdict::parse(&verdict.line()), Some(verdict));
        assert_eq!(Verdict::parse("VERDICT 1 2"), None);
    }
}
