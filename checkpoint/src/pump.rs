//! Reads pages on a thread of its own, through a bounded channel: the reader is never more than a
//! few mebibytes ahead of the network.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::sys::uio::pread;
use pages::{ByteCount, PAGE_SIZE, PageCount, PageRange, SpaceId, VirtAddr};
use tokio::sync::mpsc;
use tracee::{HostPid, Memory};
use transport::encode::{self, Squeezer};
use transport::wire::PageRun;

use crate::collect::{PageSource, SpacePages};
use crate::fingerprints::Fingerprints;

/// Pages read in one go: long enough to be fast, short enough to flow.
const PIECE: PageCount = PageCount(256);
/// Handfuls of runs that may wait for the network.
const WAITING: usize = 16;
/// Bytes of a handful: waking whoever sends for each of many single pages would cost more than reading
/// them.
const HANDFUL: usize = 64 << 10;
/// Pages that are read into a part of a buffer, because a whole one costs more than they do.
const FEW: PageCount = PageCount(8);
/// Buffers for few pages that are kept for reuse: what waits, and some.
const PARTED: usize = 4;
/// Buffers kept for reuse: what waits, what the network has not yet acknowledged, and the one
/// being filled. More are made when all are in flight, and dropped again.
const BUFFERS: usize = 64;

/// Pages could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading {}of {space}: {source}", range.map_or(String::new(), |range| format!("{range:?} ")))]
pub struct ReadPages {
    space: SpaceId,
    range: Option<PageRange>,
    source: Unread,
}

impl ReadPages {
    /// These could not be read.
    pub(crate) fn of(space: SpaceId, range: Option<PageRange>, source: tracee::Error) -> Self {
        Self { space, range, source: source.into() }
    }
}

/// A thread that reads pages.
pub(crate) struct Pump {
    handfuls: mpsc::Receiver<Vec<(PageRun, Bytes)>>,
    /// Of the last handful.
    runs: std::vec::IntoIter<(PageRun, Bytes)>,
    thread: JoinHandle<Result<(), ReadPages>>,
}

impl Pump {
    /// Starts reading every page of every space, in order. Runs are compressed on the same thread, if
    /// that makes the whole faster.
    pub(crate) fn start(spaces: Vec<SpacePages>, mut squeezer: Squeezer) -> Self {
        let (sender, handfuls) = mpsc::channel(WAITING);
        let thread = std::thread::spawn(move || {
            let mut buffers = Buffers::default();
            let mut handful = Handful::default();
            for space in &spaces {
                let pieces = space.pages.ranges().iter().flat_map(|range| range.pieces(PIECE));
                let source = Source::open(&space.source).map_err(failed(space.space, None))?;
                for range in pieces {
                    let bytes = source
                        .read(range, &mut buffers)
                        .map_err(failed(space.space, Some(range)))?;
                    for (run, bytes) in encode::runs(space.space, range, bytes) {
                        let Some(full) = handful.add(squeezer.run(run, bytes)) else { continue };
                        let since = Instant::now();
                        if sender.blocking_send(full).is_err() {
                            return Ok(()); // nobody wants them any more
                        }
                        squeezer.waited(since.elapsed());
                    }
                }
            }
            let _ = sender.blocking_send(handful.runs); // perhaps nobody wants them any more
            Ok(())
        });
        Self { handfuls, runs: Vec::new().into_iter(), thread }
    }

    /// The next run, or `None` once every page has been read.
    pub(crate) async fn next(&mut self) -> Result<Option<(PageRun, Bytes)>, ReadPages> {
        loop {
            if let Some(run) = self.runs.next() {
                return Ok(Some(run));
            }
            match self.handfuls.recv().await {
                Some(handful) => self.runs = handful.into_iter(),
                None => return self.ended(),
            }
        }
    }

    /// The same for a thread that may block.
    pub(crate) fn next_blocking(&mut self) -> Result<Option<(PageRun, Bytes)>, ReadPages> {
        loop {
            if let Some(run) = self.runs.next() {
                return Ok(Some(run));
            }
            match self.handfuls.blocking_recv() {
                Some(handful) => self.runs = handful.into_iter(),
                None => return self.ended(),
            }
        }
    }

    fn ended(&mut self) -> Result<Option<(PageRun, Bytes)>, ReadPages> {
        let nothing_more = std::thread::spawn(|| Ok(()));
        std::mem::replace(&mut self.thread, nothing_more)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .map(|()| None)
    }
}

/// Runs on their way to the network.
#[derive(Default)]
struct Handful {
    runs: Vec<(PageRun, Bytes)>,
    bytes: usize,
}

impl Handful {
    /// One more; answers all, once they are worth a journey.
    fn add(&mut self, run: (PageRun, Bytes)) -> Option<Vec<(PageRun, Bytes)>> {
        self.bytes += PageRun::HEADER_BYTES + run.1.len();
        self.runs.push(run);
        (self.bytes >= HANDFUL).then(|| std::mem::take(self).runs)
    }
}

type Unread = Box<dyn std::error::Error + Send + Sync>;

fn failed(space: SpaceId, range: Option<PageRange>) -> impl FnOnce(Unread) -> ReadPages {
    move |source| ReadPages { space, range, source }
}

/// A space, opened for reading.
enum Source<'a> {
    Process(Memory),
    /// `None`: it has ended.
    Running(Option<Memory>),
    Shared(&'a OwnedFd),
    /// What is read is noted.
    Noted(&'a File, &'a Fingerprints),
}

impl<'a> Source<'a> {
    fn open(source: &'a PageSource) -> Result<Self, Unread> {
        Ok(match source {
            PageSource::Process(pid) => Self::Process(Memory::open(*pid)?),
            PageSource::Running(pid) => Self::Running(open_running(*pid)?),
            PageSource::Common(pid) => Self::Running(open_running(*pid)?.map(Memory::sparing)),
            PageSource::Shared { file } => Self::Shared(file),
            PageSource::Noted { file, prints } => Self::Noted(file, prints),
        })
    }

    fn read(&self, range: PageRange, buffers: &mut Buffers) -> Result<Bytes, Unread> {
        let mut bytes = buffers.take(range.bytes());
        match self {
            Self::Process(memory) => memory.read(range.start_addr(), &mut bytes)?,
            Self::Running(Some(memory)) => read_running(memory, &mut bytes, range.start_addr())?,
            Self::Running(None) => bytes.fill(0),
            Self::Shared(file) => read_padded(file, &mut bytes, range.start_addr().0)?,
            Self::Noted(file, prints) => {
                read_padded(file, &mut bytes, range.start_addr().0)?;
                prints.note(range, &bytes);
            }
        }
        Ok(buffers.lend(bytes))
    }
}

/// `None` if it has ended.
fn open_running(pid: HostPid) -> tracee::Result<Option<Memory>> {
    match Memory::open(pid) {
        Err(error) if error.is_gone() => Ok(None),
        opened => opened.map(Some),
    }
}

/// Reads memory of which pages may go away at any moment. What is not there any more is zero: the
/// next look, or the last one, sees to it.
fn read_running(memory: &Memory, into: &mut [u8], at: VirtAddr) -> tracee::Result<()> {
    let mut done = 0;
    while done < into.len() {
        let from = VirtAddr(at.0 + done as u64);
        let got = match memory.read_some(from, &mut into[done..]) {
            Err(error) if error.is_gone() => 0,
            got => got? / PAGE_SIZE * PAGE_SIZE,
        };
        done += got;
        if done < into.len() {
            into[done..done + PAGE_SIZE].fill(0);
            done += PAGE_SIZE;
        }
    }
    Ok(())
}

/// Reads a file whose last page may be cut short; what is beyond its end is zero.
pub(crate) fn read_padded(file: impl AsFd, into: &mut [u8], at: u64) -> std::io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        let offset = i64::try_from(at + done as u64).map_err(std::io::Error::other)?;
        match pread(&file, &mut into[done..], offset) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    into[done..].fill(0);
    Ok(())
}

/// Buffers that come back once the network has let go of them, so that a large process does not
/// make the allocator map and unmap memory for every mebibyte.
#[derive(Default)]
struct Buffers {
    lent: VecDeque<Bytes>,
    /// What is left of a buffer for few pages each.
    parts: BytesMut,
    /// Those of which nothing is left.
    parted: VecDeque<BytesMut>,
}

impl Buffers {
    fn take(&mut self, size: ByteCount) -> BytesMut {
        let few = size <= FEW.bytes();
        let size = usize::try_from(size.0).expect("a piece fits in memory");
        let whole = usize::try_from(PIECE.bytes().0).expect("a piece fits in memory");
        if few {
            if self.parts.len() < size {
                let afresh = self.afresh(whole);
                let mut used = std::mem::replace(&mut self.parts, afresh);
                used.clear();
                self.parted.push_front(used);
                self.parted.truncate(PARTED);
            }
            return self.parts.split_to(size);
        }
        let free = self.lent.pop_front().and_then(|oldest| match oldest.try_into_mut() {
            Ok(buffer) => Some(buffer),
            Err(still_lent) => {
                self.lent.push_front(still_lent);
                None
            }
        });
        let mut buffer = free.unwrap_or_else(|| BytesMut::zeroed(whole));
        buffer.resize(size, 0);
        buffer
    }

    /// A buffer for few pages each; one that nobody holds a part of any more, if there is one.
    fn afresh(&mut self, whole: usize) -> BytesMut {
        let free = self.parted.iter_mut().position(|used| used.try_reclaim(whole));
        match free.and_then(|free| self.parted.swap_remove_back(free)) {
            Some(mut buffer) => {
                buffer.resize(whole, 0);
                buffer
            }
            None => BytesMut::zeroed(whole),
        }
    }

    fn lend(&mut self, buffer: BytesMut) -> Bytes {
        let lent = buffer.freeze();
        let few = usize::try_from(FEW.bytes().0).is_ok_and(|few| lent.len() <= few);
        if !few && self.lent.len() < BUFFERS {
            self.lent.push_back(lent.clone());
        }
        lent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_only_when_nobody_holds_it() {
        let mut buffers = Buffers::default();
        let mut first = buffers.take(ByteCount(9 * 4096));
        first[0] = 7;
        let held = buffers.lend(first);
        let second = buffers.take(ByteCount(18 * 4096));
        assert_eq!(held[0], 7, "still lent: not touched");
        let address = held.as_ptr();
        drop(held);
        let third = buffers.take(ByteCount(9 * 4096));
        assert_eq!(third.as_ptr(), address);
        assert_ne!(second.as_ptr(), address);
    }

    #[test]
    fn few_pages_share_a_buffer() {
        let mut buffers = Buffers::default();
        let mut parts = [1, 8, 1].map(|pages| buffers.take(ByteCount(pages * 4096)));
        for (mark, part) in (1..).zip(&mut parts) {
            part.fill(mark);
        }
        let parts = parts.map(|part| buffers.lend(part));
        assert_eq!(parts[1].as_ptr() as usize - parts[0].as_ptr() as usize, 4096);
        for (mark, part) in (1..).zip(&parts) {
            assert!(part.iter().all(|byte| *byte == mark));
        }
    }

    #[test]
    fn a_buffer_of_parts_is_used_again_once_nobody_holds_one() {
        let mut buffers = Buffers::default();
        let mut whole = || -> Vec<Bytes> {
            let parts = (0..PIECE.0 / FEW.0).map(|_| {
                let part = buffers.take(FEW.bytes());
                buffers.lend(part)
            });
            parts.collect()
        };
        let first = whole();
        let at = first[0].as_ptr();
        let held = first.last().cloned().expect("a part");
        drop(first);
        // Alive as long as it is kept, so nobody else can be where it is.
        assert!(whole().iter().all(|part| part.as_ptr() != at), "a part is still lent");
        drop(held);
        assert_eq!(whole()[0].as_ptr(), at);
    }

    #[test]
    fn a_short_file_reads_as_zeros_beyond_its_end() {
        let path = std::env::temp_dir().join(format!("qmig-pump-{}", std::process::id()));
        std::fs::write(&path, b"abc").expect("a file");
        let file = OwnedFd::from(std::fs::File::open(&path).expect("the file"));
        std::fs::remove_file(&path).expect("gone again");
        let mut bytes = [9; 8];
        read_padded(&file, &mut bytes, 1).expect("read");
        assert_eq!(&bytes, b"bc\0\0\0\0\0\0");
    }
}
