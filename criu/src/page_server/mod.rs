//! qmig in the place of `criu page-server`: what a stock `criu dump --page-server` talks to.
//!
//! The client is one process whose tree stands still, so nothing is answered late, and nothing is
//! kept here: pages are handed on in pieces, or thrown away without being looked at. If the
//! conversation breaks anywhere, or ends with another answer than zero, CRIU lets its tree run on.

mod maps;
mod wire;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use pages::{PageCount, PageRange, SpaceId};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

pub use maps::PageMaps;
pub use wire::{BadHeader, HeaderSize, Whereabouts};
use wire::{LONG, Message, SHORT};

/// Bytes handed on in one go.
const PIECE: PageCount = PageCount(64);

/// What becomes of the pages. An error of any method ends the dump, and the tree runs on.
pub trait Store {
    /// Pages of this space follow.
    fn open(&mut self, space: SpaceId) -> io::Result<()>;

    /// A run of them, and where its bytes are. True if bytes that follow are wanted.
    fn run(&mut self, pages: PageRange, place: Whereabouts) -> io::Result<bool>;

    /// Wanted bytes, in order, a piece of the run at a time.
    fn bytes(&mut self, pages: PageRange, bytes: &[u8]) -> io::Result<()>;

    /// Everything came. CRIU waits for the end of this before its images count as complete.
    fn close(&mut self) -> io::Result<()>;
}

/// Why pages could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum PageServerError {
    /// The client ended in the middle, or the kernel did not do its part.
    #[error("talking to CRIU: {0}")]
    Link(io::Error),
    /// The client said what no CRIU says.
    #[error("CRIU sent pages wrongly: {0}")]
    Header(#[from] BadHeader),
    /// Pages before it was said of what.
    #[error("CRIU sent pages before it said whose they are")]
    Nowhere,
    /// They could not be kept.
    #[error("keeping pages: {0}")]
    Store(io::Error),
}

/// Serves one dump to its end. How many bytes its headers had is told, for those who are curious.
pub fn serve(
    client: UnixStream,
    store: &mut dyn Store,
) -> Result<Option<HeaderSize>, PageServerError> {
    let mut server = Server { client, size: None, open: false, waste: None };
    let served = server.serve(store);
    if served.is_err() {
        let _ = server.client.write_all(&(-1_i32).to_le_bytes());
    }
    served.map(|()| server.size)
}

struct Server {
    client: UnixStream,
    size: Option<HeaderSize>,
    open: bool,
    waste: Option<Waste>,
}

impl Server {
    fn serve(&mut self, store: &mut dyn Store) -> Result<(), PageServerError> {
        loop {
            match self.next()? {
                Message::Open(space) => {
                    store.open(space).map_err(PageServerError::Store)?;
                    self.open = true;
                    self.say(&[0])?; // no older image of it is here
                }
                Message::HasParent(_) => self.say(&0_i32.to_le_bytes())?,
                Message::Pages(..) if !self.open => return Err(PageServerError::Nowhere),
                Message::Pages(pages, place) => self.pages(pages, place, store)?,
                Message::Close => {
                    store.close().map_err(PageServerError::Store)?;
                    return self.say(&0_i32.to_le_bytes());
                }
            }
        }
    }

    fn next(&mut self) -> Result<Message, PageServerError> {
        let mut header = [0; LONG];
        let size = match self.size {
            Some(size) => {
                self.read(&mut header[..size.bytes()])?;
                size
            }
            None => self.first(&mut header)?,
        };
        Ok(Message::parse(&header, size)?)
    }

    fn first(&mut self, header: &mut [u8; LONG]) -> Result<HeaderSize, PageServerError> {
        self.read(&mut header[..SHORT])?;
        let first = header[..SHORT].try_into().expect("the beginning");
        let size = HeaderSize::of_first(first);
        if Message::is_close(first) {
            // It names no image, so its size cannot be told. What may be left of it is in the
            // socket already, because it was written at once.
            self.client.set_nonblocking(true).map_err(PageServerError::Link)?;
            let _ = self.client.read(&mut header[SHORT..]);
            self.client.set_nonblocking(false).map_err(PageServerError::Link)?;
            return Ok(size);
        }
        if size == HeaderSize::Long {
            self.read(&mut header[SHORT..])?;
        }
        self.size = Some(size);
        Ok(size)
    }

    fn pages(
        &mut self,
        pages: PageRange,
        place: Whereabouts,
        store: &mut dyn Store,
    ) -> Result<(), PageServerError> {
        let wanted = store.run(pages, place).map_err(PageServerError::Store)?;
        if place != Whereabouts::Here {
            return Ok(());
        }
        if !wanted {
            return self.throw_away(pages.bytes().0);
        }
        let mut buffer = vec![0; usize::try_from(PIECE.bytes().0).expect("a piece is small")];
        for piece in pages.pieces(PIECE) {
            let bytes = &mut buffer[..usize::try_from(piece.bytes().0).expect("a piece is small")];
            self.read(bytes)?;
            store.bytes(piece, bytes).map_err(PageServerError::Store)?;
        }
        Ok(())
    }

    fn throw_away(&mut self, bytes: u64) -> Result<(), PageServerError> {
        let waste = match &mut self.waste {
            Some(waste) => waste,
            none => none.insert(Waste::new().map_err(PageServerError::Link)?),
        };
        waste.take(&self.client, bytes).map_err(PageServerError::Link)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), PageServerError> {
        self.client.read_exact(into).map_err(PageServerError::Link)
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), PageServerError> {
        self.client.write_all(bytes).map_err(PageServerError::Link)
    }
}

/// Bytes that are let go at once: what a pipe may hold on most machines (fs.pipe-max-size).
const AT_ONCE: usize = 1 << 20;

/// Where bytes go that nobody wants: through a pipe into nothing, without being copied.
struct Waste {
    from: OwnedFd,
    to: OwnedFd,
    nothing: File,
}

impl Waste {
    fn new() -> io::Result<Self> {
        let (from, to) = pipe_with(PipeFlags::CLOEXEC)?;
        let _ = fcntl_setpipe_size(&to, AT_ONCE); // a smaller one only takes longer
        let nothing = OpenOptions::new().write(true).open("/dev/null")?;
        Ok(Self { from, to, nothing })
    }

    fn take(&self, client: &UnixStream, bytes: u64) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(AT_ONCE).min(AT_ONCE);
            let mut moved =
                moved(|| splice(client, None, &self.to, None, most, SpliceFlags::MOVE))?;
            left -= moved as u64;
            while moved > 0 {
                let flags = SpliceFlags::MOVE;
                moved -=
                    self::moved(|| splice(&self.from, None, &self.nothing, None, moved, flags))?;
            }
        }
        Ok(())
    }
}

/// One splice(2), repeated if a signal came; its end is an error.
fn moved(mut splice: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    match rustix::io::retry_on_intr(&mut splice)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        moved => Ok(moved),
    }
}

#[cfg(test)]
mod tests;
