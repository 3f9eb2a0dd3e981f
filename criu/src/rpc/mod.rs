//! A worker of CRIU (`criu swrk`) and the messages to and from it: one per datagram.
//!
//! The worker's standard input is the socket and its standard output the page server's, so that no
//! other descriptor has to survive exec(2).

mod hook;
pub(crate) mod messages;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use prost::Message;

pub use hook::Hook;
use messages::{FeatureList, Options, PageServerInfo, Request, RequestType, Response};

use crate::binary::{Criu, Features};
use crate::error::{Error, Result};
use crate::log;
use crate::scratch::Scratch;

/// Where the worker finds its socket.
const SOCKET: &str = "0";
/// Where it finds the page server.
const PAGES: i32 = 1;
/// Longest message that is read.
const LONGEST: usize = 64 << 10;

/// A running worker. Dropped, its questions are answered with no, and it is waited for.
#[derive(Debug)]
pub(crate) struct Worker {
    socket: Option<OwnedFd>,
    child: Child,
}

/// What a worker said.
#[derive(Debug)]
pub(crate) enum Said {
    /// It asks whether to go on; about this process, if any.
    Asks(Hook, Option<i32>),
    /// It is done.
    Done(Response),
}

impl Worker {
    /// Starts one; it does nothing yet. With `pages` it can send pages there.
    pub(crate) fn start(criu: &Criu, pages: Option<OwnedFd>) -> Result<Self> {
        let act = "make a socket for CRIU";
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(Error::errno(act))?;
        let child = Command::new(criu.program())
            .args(["swrk", SOCKET])
            .stdin(theirs)
            .stdout(pages.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C is for us, who will tell it what to do
            .spawn()
            .map_err(|source| Error::Start { program: criu.path.clone(), source })?;
        Ok(Self { socket: Some(ours), child })
    }

    /// What this CRIU can do.
    pub(crate) fn features(mut self) -> Result<Features> {
        let asked = FeatureList { mem_track: Some(true), lazy_pages: Some(true) };
        self.say(&Request {
            kind: RequestType::FeatureCheck.into(),
            features: Some(asked),
            ..Request::default()
        })?;
        match self.hear()? {
            Some(Said::Done(answer)) => {
                let has = answer.features.unwrap_or_default();
                Ok(Features {
                    mem_track: has.mem_track == Some(true),
                    lazy_pages: has.lazy_pages == Some(true),
                })
            }
            Some(Said::Asks(hook, _)) => Err(Error::UnexpectedHook { hook }),
            None => Err(Error::Ended { log: Vec::new() }),
        }
    }

    /// Asks for a dump or a restore, with images and log in `scratch`.
    pub(crate) fn ask(
        &mut self,
        kind: RequestType,
        options: Options,
        scratch: &Scratch,
    ) -> Result<()> {
        let options = Options {
            images_dir_fd: scratch.number(),
            work_dir_fd: Some(scratch.number()),
            log_level: Some(log::LEVEL),
            log_file: Some(log::NAME.to_owned()),
            notify_scripts: Some(true),
            ..options
        };
        self.say(&Request { kind: kind.into(), options: Some(options), ..Request::default() })
    }

    /// The worker's page server is the descriptor it was started with.
    pub(crate) fn page_server() -> PageServerInfo {
        PageServerInfo { fd: Some(PAGES) }
    }

    /// Lets it go on, or not.
    pub(crate) fn answer(&mut self, go_on: bool) -> Result<()> {
        self.say(&Request {
            kind: RequestType::Notify.into(),
            notify_success: Some(go_on),
            ..Request::default()
        })
    }

    /// What it says next; `None` once it has ended.
    pub(crate) fn hear(&mut self) -> Result<Option<Said>> {
        let Some(socket) = &self.socket else { return Ok(None) };
        let mut buffer = vec![0; LONGEST];
        let length = loop {
            match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
                Ok(0) | Err(Errno::ECONNRESET) => return Ok(None),
                Ok(length) => break length,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::errno("hear CRIU")(errno)),
            }
        };
        let out_of_turn = |said: String| Error::OutOfTurn { said, due: "an answer" };
        let bytes = buffer
            .get(..length)
            .ok_or_else(|| out_of_turn(format!("a message of {length} bytes")))?;
        let response = Response::decode(bytes).map_err(|error| out_of_turn(error.to_string()))?;
        if response.kind() != RequestType::Notify {
            return Ok(Some(Said::Done(response)));
        }
        let notify = response.notify.unwrap_or_default();
        let hook = Hook::named(notify.script.as_deref().unwrap_or_default());
        tracing::debug!(%hook, "CRIU asks");
        Ok(Some(Said::Asks(hook, notify.pid)))
    }

    /// Says nothing more to it and waits for its end.
    pub(crate) fn end(&mut self) {
        drop(self.socket.take());
        let _ = self.child.wait();
    }

    fn say(&mut self, request: &Request) -> Result<()> {
        let Some(socket) = &self.socket else { return Err(Error::Ended { log: Vec::new() }) };
        let bytes = request.encode_to_vec();
        match send(socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno::EPIPE | Errno::ECONNRESET) => Err(Error::Ended { log: Vec::new() }),
            Err(errno) => Err(Error::errno("talk to CRIU")(errno)),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}
