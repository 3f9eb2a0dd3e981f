//! `criu dump --stream`, started by somebody else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use super::{Asked, CAPTURE, Cancel, Conversation, Next, unasked, wire};
use crate::dump::Dumped;
use crate::error::{Error, Result};
use crate::rpc::Hook;
use crate::scratch::Scratch;

/// Pages are read from the tree itself while it stands still: what CRIU sends of them is let go.
const PAGES: &str = "pages-";

/// A dump that is awaited, or under way. Dropped, CRIU is told no, and its tree runs on.
#[derive(Debug)]
pub struct Capture {
    conversation: Conversation,
    /// CRIU waits to begin.
    begun: Option<Asked>,
    images: Vec<JoinHandle<io::Result<()>>>,
}

impl Capture {
    /// Waits in `folder`, which is made if it is not there.
    pub fn listen(folder: &Path) -> Result<Self> {
        let conversation = Conversation::listen(folder, CAPTURE)?;
        Ok(Self { conversation, begun: None, images: Vec::new() })
    }

    /// To end the wait.
    pub fn cancel(&self) -> Result<Cancel> {
        self.conversation.cancel()
    }

    /// The program that `--action-script` must name.
    pub fn hook(&self) -> PathBuf {
        self.conversation.hook()
    }

    /// Waits until a CRIU is about to begin. It has touched nothing yet; the root of its tree is told.
    pub fn until_begun(&mut self) -> Result<i32> {
        loop {
            match self.conversation.next()? {
                Next::Asks(asked) if asked.hook == Hook::PreDump => {
                    let root = asked.root.ok_or_else(|| unasked(&asked.hook))?;
                    suits(asked.criu)?;
                    self.begun = Some(asked);
                    return Ok(root);
                }
                Next::Asks(asked) if asked.hook == Hook::PreStream => asked.answer(true),
                Next::Asks(asked) => return Err(unasked(&asked.hook)),
                Next::Image => return Err(unasked(&Hook::NetworkLock)),
                // It failed by itself before it had begun; another may come.
                Next::Ended => self.conversation.forget(),
            }
        }
    }

    /// Lets it begin, and waits until the tree stands still and everything about it is in `images`,
    /// but for its pages.
    pub fn until_images(mut self, images: Scratch) -> Result<Dumped> {
        let begun = self.begun.take().ok_or_else(|| unasked(&Hook::PreDump))?;
        let since = Instant::now();
        begun.answer(true);
        let asked = loop {
            match self.conversation.next()? {
                Next::Image => self.take(&images)?,
                Next::Asks(asked) if asked.hook == Hook::PostDump => break asked,
                Next::Asks(asked) if asked.hook == Hook::StatusReady => {
                    return Err(unasked(&asked.hook));
                }
                Next::Asks(asked) => asked.answer(true),
                Next::Ended => return Err(Error::Ended { log: Vec::new() }),
            }
        };
        for image in self.images.drain(..) {
            let read = image.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            read.map_err(Error::os("take an image of CRIU's"))?;
        }
        Ok(Dumped::asked(self.conversation, asked, images, since))
    }

    /// One image more, read on a thread of its own until CRIU has written all of it.
    fn take(&mut self, images: &Scratch) -> Result<()> {
        let act = "take an image of CRIU's";
        let way = self.conversation.images()?;
        let name = wire::request(way).map_err(Error::os(act))?;
        let from = wire::pipe(way).map_err(Error::os(act))?;
        let into = match name.starts_with(PAGES) {
            true => OpenOptions::new().write(true).open("/dev/null"),
            false => File::create_new(images.path().join(&name)),
        };
        let into = into.map_err(Error::os(act))?;
        self.images.push(std::thread::spawn(move || copy(from, into)));
        Ok(())
    }
}

/// What must not be among the words of whoever started CRIU: a tree that is to live on here, or whose
/// pages go elsewhere.
const UNSUITED: [&str; 4] = ["--lazy-pages", "--page-server", "--leave-running", "--leave-stopped"];

fn suits(criu: Option<i32>) -> Result<()> {
    let line = criu.map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")));
    let line = line.transpose().map_err(Error::os("look at CRIU's command line"))?;
    let line = line.unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    match words.find_map(|word| UNSUITED.into_iter().find(|bad| bad.as_bytes() == word)) {
        Some(word) => {
            let said = format!("{word} on its command line");
            Err(Error::OutOfTurn { said, due: "a dump that ends the tree" })
        }
        None => Ok(()),
    }
}

fn copy(from: OwnedFd, mut into: File) -> io::Result<()> {
    io::copy(&mut File::from(from), &mut into).map(drop)
}
