//! Files that come along with a container.

use std::io::{self, Read};
use std::thread::JoinHandle;

use bytes::Bytes;
use criu::{ChangedFiles, Container, Mounted};
use image::plan::{FILES, FILES_AGAIN};
use pages::ByteCount;
use rootfs::{Claim, RelPath, Sent, Unpacker};
use tokio::sync::{mpsc, oneshot};
use transport::quic::BlobReceiver;
use transport::wire::Manifest;

use crate::failure::Cause;

/// Chunks that may wait for the disk.
const WAITING: usize = 8;

/// Files of a container that is to run here. Dropped, they are gone.
#[derive(Debug)]
pub struct Files {
    unpacker: Unpacker,
    place: Place,
    /// Streams of them that have come: how long they were.
    came: Vec<ByteCount>,
}

/// Where they come.
#[derive(Debug)]
enum Place {
    /// Where nothing was.
    Empty(Claim),
    /// Over those of a container that is kept here, and its own that are not as in its image.
    Kept { changed: ChangedFiles, _mounted: Mounted },
}

/// The streams of files, in the order in which they come.
const STREAMS: [&str; 2] = [FILES, FILES_AGAIN];

impl Files {
    /// Will come into this folder.
    pub(crate) fn into_claim(claim: Claim) -> rootfs::Result<Self> {
        let unpacker = Unpacker::new(claim.folder())?;
        Ok(Self { unpacker, place: Place::Empty(claim), came: Vec::new() })
    }

    /// Will come over those of a container that is kept here.
    pub(crate) fn over(container: &Container) -> Result<Self, Cause> {
        let mounted = container.mount()?;
        let unpacker = Unpacker::new(mounted.folder())?.remembering();
        let place = Place::Kept { changed: container.changed_files()?, _mounted: mounted };
        Ok(Self { unpacker, place, came: Vec::new() })
    }

    /// True if a stream of this name is due now.
    pub(crate) fn awaits(&self, name: &str) -> bool {
        STREAMS.get(self.came.len()) == Some(&name)
    }

    /// How many streams have come.
    pub(crate) fn came(&self) -> usize {
        self.came.len()
    }

    /// What was made so far.
    pub(crate) fn done(&self) -> Sent {
        self.unpacker.done()
    }

    /// Makes what a stream tells of, on a thread of its own.
    pub(crate) async fn receive(mut self, mut stream: BlobReceiver) -> Result<Self, Cause> {
        let (sender, chunks) = mpsc::channel(WAITING);
        let (tell, mut told) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let made = self.make(Chunks { chunks, chunk: Bytes::new() });
            let _ = tell.send(made.map(|()| self)); // dropped here if nobody waits any more
        });
        let mut working = Working { sender: Some(sender), thread: Some(thread) };
        let unpacked = loop {
            let Some(sender) = &working.sender else { break told.await };
            let permit = tokio::select! {
                unpacked = &mut told => break unpacked,
                permit = sender.reserve() => permit.ok(),
            };
            // Without a permit it has ended, or wants no more.
            let chunk = if permit.is_some() { stream.chunk().await? } else { None };
            let more = permit.zip(chunk).map(|(permit, chunk)| permit.send(chunk));
            if more.is_none() {
                working.sender = None;
            }
        };
        let mut files = unpacked.expect("it always tells")?;
        if stream.chunk().await?.is_some() {
            return Err(Cause::MoreFiles);
        }
        files.came.push(stream.received());
        Ok(files)
    }

    fn make(&mut self, chunks: Chunks) -> rootfs::Result<()> {
        self.unpacker.unpack(chunks)?;
        match &self.place {
            Place::Kept { changed, .. } if self.came.len() + 1 == STREAMS.len() => {
                self.settle(changed)
            }
            _ => Ok(()),
        }
    }

    /// What was changed here and not there is as in the image there: new files go, and nobody knows
    /// what others were.
    fn settle(&self, here: &ChangedFiles) -> rootfs::Result<()> {
        let came = |path: &RelPath| self.unpacker.names().contains_key(path);
        for path in &here.added {
            let path = RelPath::within(path)?;
            if !came(&path) {
                self.unpacker.remove(&path)?;
            }
        }
        for path in here.changed.iter().chain(&here.deleted) {
            let path = RelPath::within(path)?;
            if !came(&path) && !self.unpacker.is_folder(&path) {
                return Err(rootfs::Error::OtherHere(path));
            }
        }
        Ok(())
    }

    /// As many and as long as announced.
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<(), Cause> {
        for (name, came) in STREAMS.iter().zip(&self.came) {
            let told = manifest.blobs().iter().find(|blob| blob.name.as_str() == *name);
            let announced = told.map_or(ByteCount(0), |blob| blob.bytes);
            if announced != *came {
                let (image, came) = ((*name).to_owned(), Some(*came));
                return Err(Cause::OtherThanAnnounced { image, announced, came });
            }
        }
        match self.came.len() == STREAMS.len() {
            true => Ok(()),
            false => Err(Cause::UnexpectedLane),
        }
    }

    /// The container is about to run: nobody may take them for left over from now on.
    pub(crate) fn hand_over(&self) {
        if let Place::Empty(claim) = &self.place {
            claim.unmark();
        }
    }

    /// It runs.
    pub(crate) fn keep(self) {
        if let Place::Empty(claim) = self.place {
            claim.keep();
        }
    }
}

/// True if a blob is no image.
pub(crate) fn is_stream(name: &str) -> bool {
    STREAMS.contains(&name)
}

/// A thread at work. Dropped, it hears no more, and is waited for.
struct Working {
    sender: Option<mpsc::Sender<Bytes>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where it reads.
struct Chunks {
    chunks: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.chunk.len());
        into[..length].copy_from_slice(&self.chunk.split_to(length));
        Ok(length)
    }
}
