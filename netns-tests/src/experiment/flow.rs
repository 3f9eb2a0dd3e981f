//! A TCP flow beside the migration: someone else on the same bottleneck.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpCongestion;

use crate::init::beside_current_exe;
use crate::lab::Lab;
use crate::running::Running;
use crate::{LabError, Result};

const PORT: u16 = 9878;
const SOON: Duration = Duration::from_secs(30);
/// How often the taker says how much it has.
const TELL: Duration = Duration::from_millis(20);

/// A running flow from the source to the destination; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Flow {
    taker: Running,
    _giver: Running,
}

impl Flow {
    /// Start it, under this congestion control of TCP, and let it reach its pace.
    pub(crate) fn start(lab: &Lab, control: &str) -> Result<Self> {
        let program = beside_current_exe("qmig-bench").ok_or_else(|| LabError::Missing {
            what: "qmig-bench beside this executable".to_owned(),
            hint: "cargo build -p netns-tests --bins".to_owned(),
        })?;
        let mut take = Command::new(&program);
        take.arg("take-flow");
        let taker = lab.dst().spawn(take)?;
        let listening = |line: &str| (line == "listening").then_some(());
        taker.wait_line("the taker of a flow", SOON, listening)?;
        let mut give = Command::new(&program);
        give.args(["give-flow", &lab.dst().addr().to_string(), control]);
        let giver = lab.src().spawn(give)?;
        let flow = Self { taker, _giver: giver };
        flow.taker.wait_line("a flow of a megabyte", SOON, |line| {
            line.parse::<u64>().ok().filter(|bytes| *bytes > 1_000_000)
        })?;
        Ok(flow)
    }

    /// What has arrived until now.
    pub(crate) fn bytes(&self) -> u64 {
        let last = self.taker.stdout().lines().pop();
        last.and_then(|line| line.parse().ok()).unwrap_or(0)
    }
}

/// Take one flow and say how much came, until it ends.
pub fn take_flow() -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("listening");
    let mut stream = listener.accept()?.0;
    let (mut chunk, mut bytes, mut told) = (vec![0; 1 << 16], 0, std::time::Instant::now());
    loop {
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            some => bytes += some,
        }
        if told.elapsed() >= TELL {
            println!("{bytes}");
            told = std::time::Instant::now();
        }
    }
}

/// Give as much as `address` takes, under this congestion control.
pub fn give_flow(address: &str, control: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect((address, PORT))?;
    setsockopt(&stream, TcpCongestion, &control.into())?;
    let chunk = vec![7; 1 << 16];
    loop {
        stream.write_all(&chunk)?;
    }
}
