//! Files that go along with a container.
//!
//! They cross while it runs, and what has changed meanwhile once it stands still, before the
//! hand-over: so what arrives is what was there when it stopped. A change shows in the times of a file,
//! but not if a program writes to it through memory; so what is mapped for that, then or when it began,
//! crosses again.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use bytes::Bytes;
use criu::{ChangedFiles, Container, Mounted};
use image::plan::{FILES, FILES_AGAIN};
use rootfs::{Index, RelPath, Sent, Tree, Users};
use tokio::sync::mpsc;
use tracee::HostPid;
use tracee::proc::maps;
use transport::event::{Event, Watch};
use transport::quic::SourceLink;
use transport::stop::Stop;
use transport::wire::{BlobTotal, Control};

use crate::cargo::blob_name;
use crate::failure::Cause;
use crate::source::hear;
use crate::survey::tree;

/// Bytes that leave in one go.
const CHUNK: usize = 256 << 10;
/// Chunks that may wait for the network.
const WAITING: usize = 8;
const WRITABLE: u32 = 2;

/// Files of a container, in a folder of this host.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    which: Which,
    root: HostPid,
    /// What was there when they were sent first.
    before: Index,
    /// By number, files that were mapped to be written then.
    written: HashSet<u64>,
}

/// Which of them.
#[derive(Debug)]
pub enum Which {
    /// All: over there, there is nothing.
    All,
    /// Those that its runtime says are not as in its image; as long as it runs they are in reach.
    Changed(Container, Box<Mounted>),
}

impl Files {
    /// Of the container with this root process.
    pub fn new(folder: PathBuf, which: Which, root: HostPid) -> Self {
        Self { folder, which, root, before: Index::default(), written: HashSet::new() }
    }

    /// Sends them while they are in use.
    pub(crate) async fn ahead(
        self,
        link: &SourceLink,
        stop: &mut Stop,
        watch: &mut dyn Watch,
    ) -> Result<(Self, BlobTotal), Cause> {
        let work = |files: &mut Self, out: Chunks| {
            files.written = written(files.root);
            let tree = Tree::open(&files.folder)?;
            files.before = Index::look(&tree, Users::Run)?;
            let changes = match &files.which {
                Which::All => files.before.all(),
                // Asked only now: what changes from here on is found by the second look.
                Which::Changed(container, _) => {
                    let ChangedFiles { changed, added, deleted } = container.changed_files()?;
                    let all = changed.iter().chain(&added).chain(&deleted);
                    let named = all.map(|name| RelPath::within(name));
                    let named: Result<Vec<_>, _> = named.collect();
                    files.before.only(named.map_err(rootfs::Error::from)?)
                }
            };
            Ok(tree.send(&mut files.before, &changes, Users::Run, out)?)
        };
        self.cross(FILES, work, link, stop, watch).await
    }

    /// Sends what has changed, now that nobody uses them.
    pub(crate) async fn again(
        self,
        link: &SourceLink,
        stop: &mut Stop,
        watch: &mut dyn Watch,
    ) -> Result<BlobTotal, Cause> {
        let work = |files: &mut Self, out: Chunks| {
            files.written.extend(written(files.root));
            let tree = Tree::open(&files.folder)?;
            let mut now = Index::look(&tree, Users::Stand)?;
            let changes = now.since(&files.before, &files.written);
            Ok(tree.send(&mut now, &changes, Users::Stand, out)?)
        };
        Ok(self.cross(FILES_AGAIN, work, link, stop, watch).await?.1)
    }

    /// Has a thread read them, and sends what it has read, until the destination says no.
    async fn cross(
        self,
        name: &str,
        work: impl FnOnce(&mut Self, Chunks) -> Result<Sent, Cause> + Send + 'static,
        link: &SourceLink,
        stop: &mut Stop,
        watch: &mut dyn Watch,
    ) -> Result<(Self, BlobTotal), Cause> {
        let (sender, mut chunks) = mpsc::channel(WAITING);
        let reader = std::thread::spawn(move || {
            let mut files = self;
            let sent = work(&mut files, Chunks { sender, chunk: Vec::new() });
            sent.map(|sent| (files, sent))
        });
        let name = blob_name(name)?;
        let mut blob = link.blob(&name).await?;
        let sending = async {
            while let Some(chunk) = chunks.recv().await {
                blob.write(chunk).await?;
            }
            // It has sent its last, or failed; then what was sent never was.
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (files, sent) = read?;
            Ok((files, sent, blob.finish().await?))
        };
        let (files, sent, bytes) = tokio::select! {
            sent = sending => sent,
            message = hear(link, stop) => Err(match message? {
                Control::Abort(abort) => Cause::PeerAborted(abort),
                other => Cause::TooMuch(format!("{} while files were sent", other.kind())),
            }),
        }?;
        watch.event(Event::Files { count: sent.files, bytes: sent.bytes });
        Ok((files, BlobTotal { name, bytes }))
    }
}

/// Files that processes of the tree have mapped so that they can be written, by number.
fn written(root: HostPid) -> HashSet<u64> {
    let mut written = HashSet::new();
    for pid in tree::processes(root) {
        for mapping in maps::read(pid).unwrap_or_default() {
            if mapping.shared && mapping.prot & WRITABLE != 0 && mapping.inode != 0 {
                let (start, end) = (mapping.start.0, mapping.end.0);
                let way = format!("/proc/{}/map_files/{start:x}-{end:x}", pid.0);
                written.insert(mapping.inode);
                written.extend(fs::metadata(way).map(|about| about.ino()));
            }
        }
    }
    written
}

/// Where what was read goes. An error if nobody wants it any more.
struct Chunks {
    sender: mpsc::Sender<Bytes>,
    chunk: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::take(&mut self.chunk);
        let sent = self.sender.blocking_send(chunk.into());
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
