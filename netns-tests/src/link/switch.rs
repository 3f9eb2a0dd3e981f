//! The process `qmig-link`: the switch between the hosts, and the paths through it.
//!
//! One thread, one loop: hand over what is due, read what came, sleep until the next thing happens.
//! It obeys a few words on standard input and answers each with one line of JSON:
//!
//! ```text
//! set FROM TO rate=50Mbit loss=1%     → {"ok":"rate=… …"}      what it is now
//! cut FROM TO | heal FROM TO          → {"ok":"…"}
//! tally                               → {"ok":[{"from":…,"to":…,…},…]}
//! reset                               → {"ok":""}              count from nothing
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, setns};
use nix::sys::time::TimeSpec;
use nix::unistd::{read, write};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::frame::{Frame, OFFLOAD_HEADER};
use super::path::Path;
use super::pipe::{Pipe, until};
use super::plan::{Link, PRESETS};
use super::unthrottled::Unthrottled;

const USAGE: &str = "usage: qmig-link [--device NAME] NAME=NETNS NAME=NETNS [NAME=NETNS…] [WORD…]

Joins network namespaces (files such as /run/netns/a) by an emulated link; in each appears the TAP
device NAME (eth0), for you to give an address and set up. The first is the source, the second
the destination, and the words say what lies between these two; the others are near everyone.

words:  PRESET  rtt=20ms  seed=7  rate=100Mbit  delay=10ms  jitter=2ms  loss=0.1%  loss=1%x8
        reorder=1%  reorder-by=2ms  duplicate=1%  queue=200ms|64KiB|1bdp  rival=20Mbit
        gso (what one write sent stays together; not with loss, reorder or duplicate)
        each for both directions, or after up. (from the source) or down. (to it) for one
stdin:  set FROM TO WORD… | cut FROM TO | heal FROM TO | tally | reset
        its end is the end of the link, and nothing of it stays
";

/// More than this at once would keep the others waiting.
const BATCH: usize = 64;
/// Frames that the kernel keeps for us while we are not looking.
const KERNEL_QUEUE: u32 = 10_000;
const LARGEST_FRAME: usize = OFFLOAD_HEADER + 14 + 65_536;
const NO_DICE: &str = "lose, repeat or delay single packets of a link with gso";

/// Be `qmig-link` with these arguments, until standard input ends.
pub fn link_main(args: impl IntoIterator<Item = String>) -> ExitCode {
    let plan = match Arguments::parse(args) {
        Ok(plan) => plan,
        Err(why) => {
            eprint!("qmig-link: failed to {why}\n\n{USAGE}\npresets:\n");
            for (name, words, meaning) in PRESETS {
                eprintln!("  {name:14} {words} ({meaning})");
            }
            return ExitCode::from(2);
        }
    };
    let _unthrottled = Unthrottled::new();
    match Switch::plug(&plan).and_then(|mut switch| {
        println!("{}", serde_json::json!({ "ok": plan.link.to_string() }));
        switch.run().map_err(|errno| format!("run the switch: {errno}"))
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("qmig-link: failed to {why}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    device: String,
    /// Name and namespace of each host.
    hosts: Vec<(String, String)>,
    link: Link,
}

impl Arguments {
    fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut plan = Self { device: "eth0".to_owned(), hosts: Vec::new(), link: Link::perfect() };
        let mut args = args.into_iter();
        while let Some(word) = args.next() {
            match word.split_once('=') {
                _ if word == "--device" => {
                    plan.device = args.next().ok_or("find the name after --device")?;
                }
                // Only a namespace has a slash in it.
                Some((name, path)) if path.contains('/') => {
                    plan.hosts.push((name.to_owned(), path.to_owned()));
                }
                _ => plan.link = plan.link.with(&word).map_err(|error| error.to_string())?,
            }
        }
        if plan.hosts.len() < 2 {
            return Err("find two hosts to join".to_owned());
        }
        if plan.link.gso && plan.link.rolls_dice() {
            return Err(NO_DICE.to_owned());
        }
        Ok(plan)
    }
}

/// One host's end.
struct Port {
    name: String,
    device: SyncDevice,
}

struct Switch {
    ports: Vec<Port>,
    /// The pipe from the first to the second.
    pipes: Vec<(usize, usize, Pipe)>,
    /// Frames have an offload header, and are as large as what one write sent.
    gso: bool,
    /// Which port an Ethernet address was last seen at.
    learnt: HashMap<[u8; 6], usize>,
    heard: Vec<u8>,
}

impl Switch {
    fn plug(plan: &Arguments) -> Result<Self, String> {
        let home = File::open("/proc/self/ns/net").map_err(|e| format!("open our network: {e}"))?;
        let mut ports = Vec::new();
        for (name, path) in &plan.hosts {
            let there = File::open(path).map_err(|e| format!("open {path}: {e}"))?;
            let enter = |place| setns(place, CloneFlags::CLONE_NEWNET);
            enter(&there).map_err(|e| format!("enter {path}: {e}"))?;
            let builder = DeviceBuilder::new().name(&plan.device).layer(Layer::L2);
            let builder = builder.with(|builder| {
                builder.offload(plan.link.gso);
            });
            let device = builder.tx_queue_len(KERNEL_QUEUE).enable(false).build_sync();
            let device = device.map_err(|e| format!("make a TAP device in {path}: {e}"))?;
            if plan.link.gso && !device.udp_gso() {
                return Err("keep datagrams together: TUN devices can since kernel 6.2".to_owned());
            }
            enter(&home).map_err(|e| format!("come back from {path}: {e}"))?;
            fcntl(&device, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
                .map_err(|e| format!("make the device not block: {e}"))?;
            ports.push(Port { name: name.clone(), device });
        }
        let (now, mut pipes) = (Instant::now(), Vec::new());
        for from in 0..ports.len() {
            for to in (0..ports.len()).filter(|to| *to != from) {
                let path = match (from, to) {
                    (0, 1) => plan.link.up.clone(),
                    (1, 0) => plan.link.down.clone(),
                    _ => Path::default(),
                };
                let seed = plan.link.seed.wrapping_mul(1000).wrapping_add(pipes.len() as u64);
                pipes.push((from, to, Pipe::new(path, seed, now)));
            }
        }
        let learnt = HashMap::new();
        Ok(Self { ports, pipes, gso: plan.link.gso, learnt, heard: Vec::new() })
    }

    fn run(&mut self) -> nix::Result<()> {
        let mut frame = vec![0; LARGEST_FRAME];
        loop {
            let now = Instant::now();
            for (_, to, pipe) in &mut self.pipes {
                let device = &self.ports[*to].device;
                // An interface that is down takes nothing; that is its host's affair.
                pipe.deliver(now, |frame| write(device, frame).is_ok());
            }
            let next = self.pipes.iter().filter_map(|(.., pipe)| pipe.next()).min();
            let wait = next.map(|then| TimeSpec::from_duration(until(Instant::now(), then)));
            let (words, ready) = self.wait(wait)?;
            for from in ready {
                self.take_in(from, &mut frame)?;
            }
            if words && !self.listen()? {
                return Ok(());
            }
        }
    }

    /// Whether there are words, and which ports have frames.
    fn wait(&self, time: Option<TimeSpec>) -> nix::Result<(bool, Vec<usize>)> {
        let stdin = std::io::stdin();
        let mut fds = vec![PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        let devices = self.ports.iter().map(|port| port.device.as_fd());
        fds.extend(devices.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match ppoll(&mut fds, time, None) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok((false, Vec::new())),
            Err(errno) => return Err(errno),
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let ports = (0..self.ports.len()).filter(|port| ready(&fds[port + 1])).collect();
        Ok((ready(&fds[0]), ports))
    }

    fn take_in(&mut self, from: usize, frame: &mut [u8]) -> nix::Result<()> {
        for _ in 0..BATCH {
            let size = match read(&self.ports[from].device, frame) {
                Ok(size) => size,
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(errno) => return Err(errno),
            };
            let raw = &frame[..size];
            let (read, start) = match self.gso {
                true => (Frame::offloaded(raw), OFFLOAD_HEADER),
                false => (Some(Frame::plain(raw)), 0),
            };
            let (target, source) = (address(raw, start), address(raw, start + 6));
            let (Some(read), Some(target), Some(source)) = (read, target, source) else { continue };
            self.learnt.insert(source, from);
            let to = self.learnt.get(&target).copied();
            let now = Instant::now();
            // An address that nobody has is everyone's, as in any switch.
            for (_, _, pipe) in self
                .pipes
                .iter_mut()
                .filter(|(here, there, _)| *here == from && to.is_none_or(|to| to == *there))
            {
                pipe.offer(read.clone(), now);
            }
        }
        Ok(())
    }

    /// Obey what was said; false at the end.
    fn listen(&mut self) -> nix::Result<bool> {
        let mut bytes = [0; 1024];
        match read(std::io::stdin(), &mut bytes) {
            Ok(0) => return Ok(false),
            Ok(size) => self.heard.extend_from_slice(&bytes[..size]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
        }
        while let Some(end) = self.heard.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            let answer = match self.obey(&String::from_utf8_lossy(&line)) {
                Ok(done) => serde_json::json!({ "ok": done }),
                Err(why) => serde_json::json!({ "error": why }),
            };
            let mut stdout = std::io::stdout().lock();
            // Nobody listening means the lab is gone; standard input says so next.
            let _ = writeln!(stdout, "{answer}").and_then(|()| stdout.flush());
        }
        Ok(true)
    }

    fn obey(&mut self, line: &str) -> Result<serde_json::Value, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (now, gso) = (Instant::now(), self.gso);
        match words.as_slice() {
            ["set", from, to, words @ ..] => {
                let pipe = self.pipe(from, to)?;
                let mut path = pipe.path().clone();
                words.iter().try_for_each(|word| path.apply(word)).map_err(|e| e.to_string())?;
                if gso && path.rolls_dice() {
                    return Err(NO_DICE.to_owned());
                }
                pipe.change(path, now);
                Ok(pipe.path().to_string().into())
            }
            [verb @ ("cut" | "heal"), from, to] => {
                let pipe = self.pipe(from, to)?;
                pipe.cut(*verb == "cut");
                Ok(pipe.path().to_string().into())
            }
            ["tally"] => {
                let of = |(from, to, pipe): &(usize, usize, Pipe)| {
                    let names = [*from, *to].map(|port| &self.ports[port].name);
                    serde_json::json!({ "from": names[0], "to": names[1], "tally": pipe.tally(now) })
                };
                Ok(self.pipes.iter().map(of).collect())
            }
            ["reset"] => {
                self.pipes.iter_mut().for_each(|(.., pipe)| pipe.reset(now));
                Ok("".into())
            }
            _ => Err(format!("understand {:?}", line.trim())),
        }
    }

    fn pipe(&mut self, from: &str, to: &str) -> Result<&mut Pipe, String> {
        let named = |port: &usize, name: &str| self.ports[*port].name == name;
        let found = self.pipes.iter().position(|(a, b, _)| named(a, from) && named(b, to));
        found.map(|at| &mut self.pipes[at].2).ok_or_else(|| format!("find a path {from} {to}"))
    }
}

/// The six bytes at `at`.
fn address(frame: &[u8], at: usize) -> Option<[u8; 6]> {
    frame.get(at..at + 6)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let parse = |line: &str| Arguments::parse(line.split(' ').map(str::to_owned));
        let plan = parse("a=/run/netns/a b=/run/netns/b lte,loss=1% seed=4").expect("a plan");
        assert_eq!((plan.hosts.len(), plan.device.as_str()), (2, "eth0"));
        assert_eq!(plan.link, Link::lte().with("loss=1%").expect("a word").seed(4));
        for line in
            ["a=/run/netns/a", "a=/x b=/y fast", "a=/x b=/y --device", "a=/x b=/y gso loss=1%"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
        assert_eq!(address(&[1, 2, 3, 4, 5, 6, 7], 0), Some([1, 2, 3, 4, 5, 6]));
        assert_eq!(address(&[0; 11], 6), None);
    }
}
