//! `criu restore --stream`, started by somebody else.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Cancel, Conversation, Next, SERVE, unasked, wire};
use crate::error::{Error, Result};
use crate::lazy_socket::LazySocket;
use crate::restore::Restored;
use crate::rpc::Hook;
use crate::scratch::Scratch;

/// A restore that is awaited. Dropped, CRIU is told no, and nothing of its tree is left.
#[derive(Debug)]
pub struct Serve {
    conversation: Conversation,
    lazy: LazySocket,
}

impl Serve {
    /// Waits in `folder`, which is made if it is not there.
    pub fn listen(folder: &Path) -> Result<Self> {
        let conversation = Conversation::listen(folder, SERVE)?;
        let lazy = LazySocket::listen_in(folder)?;
        Ok(Self { conversation, lazy })
    }

    /// To end the wait.
    pub fn cancel(&self) -> Result<Cancel> {
        self.conversation.cancel()
    }

    /// The program that `--action-script` must name.
    pub fn hook(&self) -> PathBuf {
        self.conversation.hook()
    }

    /// Lets a CRIU have the images, pages included, each once, and waits until every task is there and
    /// none has run. So many processes are `living`, if that is known; if pages are `owed` to them, CRIU must hand out who
    /// misses some, and otherwise it may.
    pub fn until_restored(
        mut self,
        images: &Scratch,
        living: Option<usize>,
        owed: bool,
    ) -> Result<Restored> {
        let mut begun = false;
        let asked = loop {
            match self.conversation.next()? {
                Next::Image if begun => self.give(images)?,
                Next::Image => return Err(unasked(&Hook::PreRestore)),
                Next::Pages(_) => {}
                Next::Asks(asked) if asked.hook == Hook::PostRestore => break asked,
                Next::Asks(asked) => {
                    begun = true;
                    asked.answer(true);
                }
                Next::Ended if begun => return Err(Error::Ended { log: Vec::new() }),
                Next::Ended => self.conversation.forget(),
            }
        };
        let root = asked.root.ok_or_else(|| unasked(&asked.hook))?;
        let lazy = match (self.lazy.take(living.unwrap_or(0)), living) {
            (Ok(handed), Some(_)) => Some(handed),
            (Err(_), _) if !owed => None,
            (Err(_), _) => {
                let said = "nothing on its lazy-pages socket".to_owned();
                let due = "what `criu restore --lazy-pages` hands out";
                return Err(Error::OutOfTurn { said, due });
            }
            (Ok(_), None) => {
                let said = "who misses pages, of a tree that only CRIU understands".to_owned();
                return Err(Error::OutOfTurn { said, due: "a restore without --lazy-pages" });
            }
        };
        // Where nothing is owed, whatever is missing is zero, and is as soon as nobody watches.
        let lazy = lazy.map(|handed| if owed { handed } else { handed.without_processes() });
        Ok(Restored::asked(self.conversation, asked, root, lazy))
    }

    /// One image, written on a thread of its own; its memory is let go with it.
    fn give(&mut self, images: &Scratch) -> Result<()> {
        give(self.conversation.images()?, images).map_err(Error::os("give CRIU an image"))
    }
}

fn give(way: &UnixStream, images: &Scratch) -> io::Result<()> {
    let path = images.path().join(wire::request(way)?);
    let Ok(mut image) = File::open(&path) else { return wire::reply(way, false) };
    wire::reply(way, true)?;
    let into = wire::pipe(way)?;
    std::fs::remove_file(&path)?;
    // CRIU may have seen enough before the end.
    std::thread::spawn(move || io::copy(&mut image, &mut File::from(into)));
    Ok(())
}
