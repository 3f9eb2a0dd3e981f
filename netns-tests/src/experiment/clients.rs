//! Clients of a server that moves, on a third host: what they see of it, each by a schedule of its own
//! that waits for no answer, so that a pause is seen by all who would have asked meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBufForce;
use serde::{Deserialize, Serialize};

use super::load::Asking;
use super::record::Requests;
use super::service::ADDRESS;
use super::timeline::Timeline;
use super::{failed, monotonic_us};
use crate::init::beside_current_exe;
use crate::lab::Lab;
use crate::running::Running;
use crate::{LabError, Result};

const PORT: u16 = 7000;
/// For unanswered questions of one client: each takes a kilobyte of the kernel's.
const ROOM: usize = 32 << 20;
const SOON: Duration = Duration::from_secs(30);
/// How long clients may take to have every answer, once they ask no more.
const LAST_ANSWERS: Duration = Duration::from_secs(60);

/// At work; dropped, they end.
#[derive(Debug)]
pub(super) struct Clients(Running);

/// What they say in the end.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Told {
    wrong: Vec<String>,
    requests: Requests,
}

impl Clients {
    /// Start them on the third host; returns once each has had an answer.
    pub(super) fn start(lab: &Lab, asking: Asking) -> Result<Self> {
        let program = beside_current_exe("qmig-bench").ok_or_else(|| LabError::Missing {
            what: "qmig-bench beside this executable".to_owned(),
            hint: "cargo build -p netns-tests --bins".to_owned(),
        })?;
        let client = lab.client().ok_or_else(|| LabError::Missing {
            what: "a third host".to_owned(),
            hint: "Lab::plan().client()".to_owned(),
        })?;
        let mut command = Command::new(program);
        let Asking { clients, rate, pages } = asking;
        command.args(["ask-server", ADDRESS]).args([clients, rate, pages].map(|it| it.to_string()));
        let running = client.spawn(command)?;
        let answered = |line: &str| (line == "READY").then_some(());
        running.wait_line("the clients to be answered", SOON, answered)?;
        Ok(Self(running))
    }

    /// They ask no more; what they saw, told from `since`.
    pub(super) fn end(self, since_us: i64) -> Result<Requests> {
        self.0.signal(Signal::SIGTERM)?;
        let output = self.0.output(LAST_ANSWERS)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = text.lines().last().and_then(|line| serde_json::from_str::<Told>(line).ok());
        let told =
            told.ok_or_else(|| failed("what the clients saw", output.status, self.0.logs()))?;
        if !told.wrong.is_empty() {
            let what = "every client be answered, and rightly";
            return Err(failed(what, told.wrong.join("; "), String::new()));
        }
        let mut requests = told.requests;
        requests.points.iter_mut().for_each(|point| point.0 -= since_us);
        Ok(requests)
    }
}

/// Ask until SIGTERM, and then say what was seen.
pub fn ask_server(words: &[&str]) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let [address, clients, rate, pages] = words else { return Err("read four words".into()) };
    let (clients, rate): (u32, u32) = (clients.parse()?, rate.parse()?);
    let keys = pages.parse::<u64>()? / u64::from(clients.max(1));
    if clients == 0 || rate == 0 || keys == 0 {
        return Err("find a key and a time for each client".into());
    }
    // Threads inherit it: only the wait below takes the signal.
    let mut ending = SigSet::empty();
    ending.add(Signal::SIGTERM);
    ending.thread_block()?;
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        seen: Mutex::new((Timeline::since(monotonic_us()), monotonic_us(), 0)),
    });
    let every = Duration::from_secs(1) / rate;
    let mut threads = Vec::new();
    for number in 0..clients {
        let stream = TcpStream::connect((*address, PORT))?;
        stream.set_nodelay(true)?;
        // What is asked while nobody answers shall not hold up what is asked next.
        setsockopt(&stream, SndBufForce, &ROOM)?;
        // One after the other, evenly.
        let began_us = monotonic_us() + micros(every) * i64::from(number) / i64::from(clients);
        let keys = Keys { first: u64::from(number), step: u64::from(clients), count: keys };
        let client = Client { keys, began_us, every, asked: Arc::new(AtomicU64::new(u64::MAX)) };
        client.first_answer(&stream)?;
        let (asking, asker) = (Arc::clone(&shared), stream.try_clone()?);
        let asks = client.clone();
        threads.push(std::thread::spawn(move || asks.ask(asker, &asking)));
        let shared = Arc::clone(&shared);
        threads.push(std::thread::spawn(move || client.listen(stream, &shared)));
    }
    println!("READY");
    ending.wait()?;
    shared.stop.store(true, Ordering::Relaxed);
    let ends =
        threads.into_iter().map(|it| it.join().unwrap_or_else(|_| Err("it panicked".into())));
    let wrong: Vec<String> = ends.filter_map(Result::err).collect();
    let seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
    let (line, _, silence_us) = &*seen;
    let [count, p50_us, p99_us, max_us] = line.all();
    let requests = Requests {
        count,
        p50_us,
        p99_us,
        max_us,
        silence_us: *silence_us,
        bucket_us: line.width_us(),
        points: line.points(),
    };
    println!("{}", serde_json::to_string(&Told { wrong, requests })?);
    Ok(())
}

/// What all clients see together: latencies, when the last answer came, the longest time without one.
struct Shared {
    stop: AtomicBool,
    seen: Mutex<(Timeline, i64, u64)>,
}

/// The keys of one client, which no other has.
#[derive(Clone, Debug)]
struct Keys {
    first: u64,
    step: u64,
    count: u64,
}

impl Keys {
    /// Nine of ten are among a sixteenth of the keys, as clients have favourites; in an order that both
    /// threads of a client know.
    fn place(&self, number: u64) -> u64 {
        let random = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let among = if random.is_multiple_of(10) { self.count } else { self.count.div_ceil(16) };
        random / 10 % among
    }

    fn key(&self, number: u64) -> u64 {
        self.first + self.step * self.place(number)
    }
}

#[derive(Clone, Debug)]
struct Client {
    keys: Keys,
    began_us: i64,
    every: Duration,
    /// How many questions there were, once there are no more.
    asked: Arc<AtomicU64>,
}

impl Client {
    /// When question `number` is due.
    fn due_us(&self, number: u64) -> i64 {
        let after = self.every.as_nanos() * u128::from(number) / 1000;
        self.began_us + i64::try_from(after).unwrap_or(i64::MAX)
    }

    fn question(&self, number: u64) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.keys.key(number).to_le_bytes());
        bytes[8..].copy_from_slice(&(number + 1).to_le_bytes());
        bytes
    }

    /// The connection is served, with a question whose answer is known.
    fn first_answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut question = [0; 16];
        question[..8].copy_from_slice(&self.keys.key(0).to_le_bytes());
        stream.write_all(&question)?;
        stream.read_exact(&mut [0; 16])
    }

    fn ask(&self, mut stream: TcpStream, shared: &Shared) -> Result<(), String> {
        for number in 0.. {
            let early = self.due_us(number) - monotonic_us();
            std::thread::sleep(Duration::from_micros(u64::try_from(early).unwrap_or(0)));
            if shared.stop.load(Ordering::Relaxed) {
                self.asked.store(number, Ordering::Relaxed);
                break;
            }
            stream.write_all(&self.question(number)).map_err(|error| format!("asking: {error}"))?;
        }
        stream.shutdown(Shutdown::Write).map_err(|error| format!("ending: {error}"))
    }

    /// Until the server has ended the connection, which it does when it has answered everything.
    fn listen(&self, mut stream: TcpStream, shared: &Shared) -> Result<(), String> {
        let mut values = vec![0; usize::try_from(self.keys.count).unwrap_or(0)];
        for number in 0.. {
            let mut answer = [0; 16];
            if stream.peek(&mut answer).map_err(|error| format!("answer {number}: {error}"))? == 0 {
                let all = self.asked.load(Ordering::Relaxed) == number;
                return if all { Ok(()) } else { Err(format!("an end after {number} answers")) };
            }
            stream.read_exact(&mut answer).map_err(|error| format!("answer {number}: {error}"))?;
            let now = monotonic_us();
            let (key, value) = answer.split_at(8);
            let place = usize::try_from(self.keys.place(number)).unwrap_or(0);
            let expected = std::mem::replace(&mut values[place], number + 1);
            if key != self.keys.key(number).to_le_bytes() || value != u64::to_le_bytes(expected) {
                return Err(format!("answer {number} is {answer:?}, not {expected}"));
            }
            let due = self.due_us(number);
            let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.0.add(due, Duration::from_micros(u64::try_from(now - due).unwrap_or(0)));
            let silence = u64::try_from(now - seen.1).unwrap_or(0);
            (seen.1, seen.2) = (now, seen.2.max(silence));
        }
        Ok(())
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
