//! `criu dump`, started by somebody else: with `--stream`, with `--page-server`, with `--lazy-pages`, or
//! with several of them.
//!
//! One with `--lazy-pages` keeps pages and serves them when everything else is done. They are read from
//! the tree itself all the same, before that; then it is only told that nobody wants any (more).

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use super::pages::{PageDoors, is_of, is_plain};
use super::{Asked, CAPTURE, Cancel, Conversation, Images, Next, unasked, wire};
use crate::dump::Dumped;
use crate::error::{Error, Result};
use crate::page_server::{self, PageMaps};
use crate::rpc::Hook;
use crate::scratch::Scratch;

/// Pages are read from the tree itself while it stands still: what CRIU sends of them is let go.
const PAGES: &str = "pages-";
/// How the names of images end.
const IMAGE: &str = ".img";

/// A dump that is awaited, or under way. Dropped, CRIU is told no, and its tree runs on.
#[derive(Debug)]
pub struct Capture {
    conversation: Conversation,
    /// CRIU waits to begin.
    begun: Option<Asked>,
    /// It keeps pages.
    lazily: bool,
    /// Without `--stream`, images are here.
    folder: PathBuf,
    images: Vec<JoinHandle<io::Result<()>>>,
    /// A connection for pages that CRIU was started with.
    connected: Option<UnixStream>,
    pages: Option<JoinHandle<Result<PageMaps>>>,
}

impl Capture {
    /// Waits in `folder`, which is made if it is not there, and if told so at an address for pages too.
    pub fn listen(folder: &Path, pages: Option<SocketAddr>) -> Result<Self> {
        let mut conversation = Conversation::listen(folder, CAPTURE)?;
        let doors = PageDoors::listen(folder, pages);
        conversation.pages = Some(doors.map_err(Error::os("listen for pages"))?);
        let folder = folder.to_owned();
        let (images, connected, pages) = (Vec::new(), None, None);
        let (begun, lazily) = (None, false);
        Ok(Self { conversation, begun, lazily, folder, images, connected, pages })
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
                    self.lazily = keeps_pages(asked.criu)?;
                    self.begun = Some(asked);
                    return Ok(root);
                }
                Next::Asks(asked) if asked.hook == Hook::PreStream => asked.answer(true),
                Next::Asks(asked) => return Err(unasked(&asked.hook)),
                Next::Image => return Err(unasked(&Hook::NetworkLock)),
                // Made for it by whoever starts it, if it is no socket of the network.
                Next::Pages(stream) if is_plain(&stream) => self.connected = Some(stream),
                Next::Pages(_) => tracing::warn!("a stranger has connected to send pages"),
                // It failed by itself before it had begun; another may come.
                Next::Ended => self.conversation.forget(),
            }
        }
    }

    /// Lets it begin, and waits until the tree stands still and everything about it is in `images`,
    /// but for its pages. Of those that were sent, which they are is told.
    pub fn until_images(mut self, images: Scratch) -> Result<(Dumped, Option<PageMaps>)> {
        let begun = self.begun.take().ok_or_else(|| unasked(&Hook::PreDump))?;
        let criu = begun.criu;
        match self.connected.take() {
            Some(stream) if self.lazily => self.conversation.kept = Some(stream),
            Some(stream) => self.take_pages(stream, criu)?,
            None => {}
        }
        let since = Instant::now();
        begun.answer(true);
        let asked = loop {
            match self.conversation.next()? {
                Next::Image => self.take(&images)?,
                Next::Pages(stream) => self.take_pages(stream, criu)?,
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
        let act = "take an image of CRIU's";
        if matches!(self.conversation.images, Images::Awaited) {
            fetch(&self.folder, &images.path()).map_err(Error::os(act))?;
        }
        let pages = self.pages.take().map(JoinHandle::join);
        let pages = pages.map(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        Ok((Dumped::asked(self.conversation, asked, images, since), pages.transpose()?))
    }

    /// Hears which pages there are, on a thread of its own, if it is CRIU that tells.
    fn take_pages(&mut self, stream: UnixStream, criu: Option<i32>) -> Result<()> {
        if self.lazily
            || self.pages.is_some()
            || !is_of(&stream, criu).map_err(Error::os("hear CRIU"))?
        {
            tracing::warn!("somebody else than CRIU has connected to send pages");
            return Ok(());
        }
        self.pages = Some(std::thread::spawn(move || {
            let mut maps = PageMaps::default();
            page_server::serve(stream, &mut maps).map_err(Error::Pages)?;
            Ok(maps)
        }));
        Ok(())
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

/// What must not be among the words of whoever started CRIU: a tree that is to live on here.
const UNSUITED: [&str; 2] = ["--leave-running", "--leave-stopped"];
/// What must not be among them beside `--lazy-pages`: pages that it both sends and keeps, and a
/// conversation about them that nobody here can read.
const UNSUITED_LAZILY: [&str; 2] = ["--page-server", "--tls"];
/// One of these must be, or its pages would be written to a disk.
const NEEDED: [&str; 3] = ["--stream", "--page-server", LAZY];
const LAZY: &str = "--lazy-pages";

/// Whether that CRIU keeps pages, if it can be served at all.
fn keeps_pages(criu: Option<i32>) -> Result<bool> {
    let line = criu.map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")));
    let line = line.transpose().map_err(Error::os("look at CRIU's command line"))?;
    suits(&line.unwrap_or_default()).map_err(|said| {
        let due = "a dump that ends the tree and sends its pages here";
        Error::OutOfTurn { said, due }
    })
}

fn suits(line: &[u8]) -> Result<bool, String> {
    let words: Vec<_> = line.split(|byte| *byte == 0).collect();
    let has = |option: &&str| words.iter().any(|word| is_option(word, option));
    let lazily = has(&LAZY);
    let unsuited =
        UNSUITED_LAZILY.iter().filter(|_| lazily).chain(&UNSUITED).find(|word| has(word));
    match unsuited {
        Some(word) if lazily && UNSUITED_LAZILY.contains(word) => {
            Err(format!("{LAZY} and {word} on its command line"))
        }
        Some(word) => Err(format!("{word} on its command line")),
        None if NEEDED.iter().any(has) => Ok(lazily),
        None => Err(format!("none of {} on its command line", NEEDED.join(", "))),
    }
}

/// True if a word is this option, in full or cut short, as getopt_long(3) has it. One that is cut too
/// short to be told from others CRIU refuses by itself.
fn is_option(word: &[u8], option: &str) -> bool {
    word.len() > "--".len() && option.as_bytes().starts_with(word)
}

/// Takes the images that CRIU has written into a directory out of it.
fn fetch(folder: &Path, into: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let pages = name.to_string_lossy().starts_with(PAGES);
        if entry.file_type()?.is_file() && name.to_string_lossy().ends_with(IMAGE) {
            if pages {
                std::fs::remove_file(entry.path())?;
                continue;
            }
            let (from, into) = (File::open(entry.path())?, File::create_new(into.join(name))?);
            copy(from.into(), into)?;
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn copy(from: OwnedFd, mut into: File) -> io::Result<()> {
    io::copy(&mut File::from(from), &mut into).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_suits_and_what_does_not() {
        let said = |line: &str| suits(line.replace(' ', "\0").as_bytes());
        assert_eq!(said("criu dump --tree 7 --stream"), Ok(false));
        assert_eq!(said("criu dump --page-server --port 9"), Ok(false));
        assert_eq!(said("criu dump --stream --lazy-pages --port 9"), Ok(true));
        assert_eq!(said("criu dump --lazy"), Ok(true));
        for (line, word) in [
            ("--stream --leave-running", "--leave-running"),
            ("--stream --leave-s", "--leave-stopped"),
            ("--lazy-pages --tls", "--tls"),
            ("--lazy-pages --page-server --ps-socket 3", "--page-server"),
            ("--tree 7", "--stream, --page-server"),
        ] {
            let why = said(line).expect_err(line);
            assert!(why.contains(word), "{line}: {why}");
        }
    }
}
