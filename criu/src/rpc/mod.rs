//! A worker of CRIU (`criu swrk`) and the messages to and from it: one per datagram.
//!
//! The worker's standard input is the socket and its standard output the page server's, so that no
//! other descriptor has to survive exec(2).

mod datagram;
mod hook;
pub(crate) mod messages;

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use prost::Message;

use datagram::Datagram;
pub use hook::Hook;
use messages::{
    FeatureList, ForeignRequest, NO_NETWORK_LOCK, Options, PageServerInfo, Request, RequestType,
    Response,
};

use crate::binary::{Criu, Features};
use crate::container::{AtWork, Container, Task};
use crate::error::{Error, Result};
use crate::log;
use crate::scratch::Scratch;
use crate::work::Work;

/// Where the worker finds its socket.
const SOCKET: &str = "0";
/// Where it finds the page server.
const PAGES: i32 = 1;

/// A running worker. Dropped, its questions are answered with no, and it is waited for.
#[derive(Debug)]
pub(crate) struct Worker {
    socket: Option<OwnedFd>,
    /// Where it finds the page server.
    pages: Option<i32>,
    starter: Starter,
}

/// Who started a worker.
#[derive(Debug)]
enum Starter {
    /// We did.
    Us(Child),
    /// The runtime of a container, which hears every question too and answers what we do not.
    Runtime(Box<Relay>),
}

/// A runtime that believes to talk to its CRIU.
#[derive(Debug)]
struct Relay {
    work: AtWork,
    /// Taken when nothing is said to it any more.
    asker: Option<OwnedFd>,
    /// What it asked for.
    request: ForeignRequest,
    /// The question that it has not heard yet.
    question: Datagram,
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
        let (ours, theirs) = pair()?;
        let has_pages = pages.is_some();
        let child = Command::new(criu.program())
            .args(["swrk", SOCKET])
            .stdin(theirs)
            .stdout(pages.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C is for us, who will tell it what to do
            .spawn()
            .map_err(|source| Error::Start { program: criu.path.clone(), source })?;
        let pages = has_pages.then_some(PAGES);
        Ok(Self { socket: Some(ours), pages, starter: Starter::Us(child) })
    }

    /// Has a runtime start one, for a dump or a restore that [`Self::ask`] then completes.
    pub(crate) fn start_by(
        container: &Container,
        task: Task<'_>,
        criu: &Criu,
        images: &Scratch,
        pages: Option<OwnedFd>,
    ) -> Result<Self> {
        let mut work = container.start(task, criu, images)?;
        while let Some(guest) = work.door.next(&work.child)? {
            let Some(first) = Datagram::receive(&guest.asker)? else { continue };
            let request = ForeignRequest::decode(&*first.bytes).unwrap_or_default();
            let (ours, theirs) = pair()?;
            if matches!(request.kind(), RequestType::Dump | RequestType::Restore) {
                let (asker, pages) = guest.becomes_criu(&theirs, pages.as_ref())?;
                let relay =
                    Relay { work, asker: Some(asker), request, question: Datagram::default() };
                let starter = Starter::Runtime(Box::new(relay));
                return Ok(Self { socket: Some(ours), pages, starter });
            }
            // A question about the version or the features of CRIU.
            let (asker, _) = guest.becomes_criu(&theirs, None)?;
            drop(theirs);
            let mut question = Some(first);
            while let Some(asked) = question {
                asked.send(&ours)?;
                let Some(answer) = Datagram::receive(&ours)? else { break };
                answer.send(&asker)?;
                question = Datagram::receive(&asker)?;
            }
        }
        work.end()?;
        Err(work.failed())
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

    /// Asks for a dump or a restore, with images in `images` and the log in `work`.
    pub(crate) fn ask(
        &mut self,
        kind: RequestType,
        options: Options,
        images: &Scratch,
        work: &Work,
    ) -> Result<()> {
        let options = Options {
            images_dir_fd: images.number(),
            work_dir_fd: Some(work.number()),
            log_level: Some(log::LEVEL),
            log_file: Some(log::NAME.to_owned()),
            notify_scripts: Some(true),
            ..options
        };
        let Starter::Runtime(relay) = &mut self.starter else {
            let options = Some(options);
            return self.say(&Request { kind: kind.into(), options, ..Request::default() });
        };
        let request = std::mem::take(&mut relay.request);
        if request.kind() != kind {
            let said = format!("{:?} by its runtime", request.kind());
            return Err(Error::OutOfTurn { said, due: "what the runtime was asked for" });
        }
        // Its network goes along, and what a lock would keep out ends with the connections.
        let network = NO_NETWORK_LOCK;
        let ours = Options { empty_ns: Some(0), network_lock: Some(network), ..options };
        self.pass(&request.with(&ours).encode_to_vec().into())
    }

    /// The worker's page server is the descriptor it was started with.
    pub(crate) fn page_server(&self) -> Option<PageServerInfo> {
        self.pages.map(|fd| PageServerInfo { fd: Some(fd) })
    }

    /// Lets it go on, if its runtime wants that too; or not.
    pub(crate) fn answer(&mut self, go_on: bool) -> Result<()> {
        if let (true, Starter::Runtime(relay)) = (go_on, &self.starter) {
            let answer = relay.pass_on()?.ok_or_else(|| relay.work.failed())?;
            return self.pass(&answer);
        }
        self.say_answer(go_on)
    }

    /// Lets it go on, whatever its runtime says.
    pub(crate) fn insist(&mut self) -> Result<()> {
        if let Starter::Runtime(relay) = &self.starter {
            let _ = relay.pass_on();
        }
        self.say_answer(true)
    }

    fn say_answer(&mut self, go_on: bool) -> Result<()> {
        self.say(&Request {
            kind: RequestType::Notify.into(),
            notify_success: Some(go_on),
            ..Request::default()
        })
    }

    /// What it says next; `None` once it has ended.
    pub(crate) fn hear(&mut self) -> Result<Option<Said>> {
        let Some(socket) = &self.socket else { return Ok(None) };
        let Some(message) = Datagram::receive(socket)? else { return Ok(None) };
        let out_of_turn = |said: String| Error::OutOfTurn { said, due: "an answer" };
        let response =
            Response::decode(&*message.bytes).map_err(|error| out_of_turn(error.to_string()))?;
        if response.kind() != RequestType::Notify {
            if let Starter::Runtime(relay) = &self.starter {
                // Whether it hears that is its own affair.
                let _ = relay.say(&message);
            }
            return Ok(Some(Said::Done(response)));
        }
        if let Starter::Runtime(relay) = &mut self.starter {
            relay.question = message;
        }
        let notify = response.notify.unwrap_or_default();
        let hook = Hook::named(notify.script.as_deref().unwrap_or_default());
        tracing::debug!(%hook, "CRIU asks");
        Ok(Some(Said::Asks(hook, notify.pid)))
    }

    /// Says nothing more to it and waits for its end. An error if a runtime says that it failed.
    pub(crate) fn end(&mut self) -> Result<()> {
        drop(self.socket.take());
        match &mut self.starter {
            Starter::Us(child) => drop(child.wait()),
            Starter::Runtime(relay) => {
                drop(relay.asker.take());
                relay.work.end()?;
            }
        }
        Ok(())
    }

    /// True once it has ended, if we started it.
    pub(crate) fn has_ended(&mut self) -> bool {
        match &mut self.starter {
            Starter::Us(child) => !matches!(child.try_wait(), Ok(None)),
            Starter::Runtime(_) => false,
        }
    }

    /// True if its tree is no child of ours.
    pub(crate) fn is_of_runtime(&self) -> bool {
        matches!(self.starter, Starter::Runtime(_))
    }

    fn say(&mut self, request: &Request) -> Result<()> {
        self.pass(&request.encode_to_vec().into())
    }

    fn pass(&mut self, message: &Datagram) -> Result<()> {
        let Some(socket) = &self.socket else { return Err(Error::Ended { log: Vec::new() }) };
        message.send(socket)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Relay {
    /// Asks it the question that CRIU asks; `None` if it has ended.
    fn pass_on(&self) -> Result<Option<Datagram>> {
        self.say(&self.question)?;
        self.asker.as_ref().map_or(Ok(None), Datagram::receive)
    }

    fn say(&self, message: &Datagram) -> Result<()> {
        self.asker.as_ref().map_or(Ok(()), |asker| message.send(asker))
    }
}

fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(Error::errno("make a socket for CRIU"))
}
