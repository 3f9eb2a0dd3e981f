//! State to messages and back, one file a noun.
//!
//! Writing cannot fail: state is valid. Reading believes nothing: each file checks the values of its
//! own messages, and [`Checkpoint::check`] then checks how they refer to each other.

mod check;
mod creds;
mod descriptors;
mod fanotify;
mod files;
mod ghosts;
mod groups;
mod inotify;
mod ipc;
mod locks;
mod mm;
mod namespaces;
mod netlink;
mod nodes;
mod options;
mod packet;
mod pipes;
mod raw;
mod registers;
mod seccomp;
mod settings;
mod shared;
mod signals;
mod sockets;
mod streams;
mod sysv;
mod threads;
mod timers;
mod tree;
mod tty;

use pages::TaskId;
use prost::Message;

use crate::error::{BadField, BadImage};
use crate::frame::{FrameReader, FrameWriter};
use crate::kind::ImageKind;
use crate::messages::{CoreEntry, TaskKobjIdsEntry};
use crate::set::ImageSet;
use crate::state::{Checkpoint, Task};

pub use namespaces::NamespaceIds;

impl Checkpoint {
    /// Everything but the content of pages, in images that a stock CRIU restores too.
    ///
    /// Processes share a descriptor table if they have the same [`crate::state::FdTableId`]; all
    /// else is each one's own.
    pub fn to_images(&self, namespaces: &NamespaceIds) -> ImageSet {
        let chains = seccomp::Chains::of(self);
        let mut writer = Writer { checkpoint: self, namespaces, chains, images: Vec::new() };
        tree::write(&mut writer);
        descriptors::write(&mut writer);
        files::write(&mut writer);
        locks::write(&mut writer);
        pipes::write(&mut writer);
        shared::write(&mut writer);
        sysv::write(&mut writer);
        ipc::write(&mut writer);
        ghosts::write(&mut writer);
        namespaces::write(&mut writer);
        ImageSet::from_own(writer.images)
    }

    /// Reads and checks a set made by [`Self::to_images`] or by a stock CRIU 4.
    ///
    /// What such a set may hold beyond what a [`Checkpoint`] can say is an error for which
    /// [`BadImage::is_unsupported`] is true. Passed over, because whoever restores gives a tree its
    /// own: cgroups, login uids and build ids.
    pub fn from_images(images: &ImageSet) -> Result<Self, BadImage> {
        let mut reader = Reader {
            images,
            root_ids: TaskKobjIdsEntry::default(),
            anywhere: false,
            root: None,
            old_shared: shared::OldShared::new(u32::MAX),
        };
        reader.root_ids = namespaces::read_inventory(&reader)?;
        let tasks = tree::read(&mut reader)?;
        let clocks = namespaces::read_clocks(&reader, tasks[0].id)?;
        let (mut shared, memfds) = shared::read(&reader)?;
        shared.extend(sysv::read(&reader)?);
        let (semaphores, queues) = ipc::read(&reader)?;
        let (remaps, ghosts) = ghosts::read(&reader)?;
        let fd_tables = descriptors::read(&reader, &tasks)?;
        let mut files = files::read(&reader, &memfds, remaps, &fd_tables)?;
        for (file, object) in reader.old_shared.objects() {
            files.push(files::of_shared(file, object.id));
            shared.push(object);
        }
        let pipes = pipes::read(&reader)?;
        let locks = locks::read(&reader)?;
        let mut checkpoint = Self {
            clocks,
            tasks,
            fd_tables,
            files,
            pipes,
            ghosts,
            shared,
            semaphores,
            queues,
            locks,
        };
        nodes::drop_nodes(&reader, &mut checkpoint)?;
        checkpoint.check()?;
        Ok(checkpoint)
    }
}

/// The processes of a set of a stock CRIU, in whatever namespaces they are, without all that is not
/// theirs alone. Enough to know which of their pages may follow.
pub fn tasks_of(images: &ImageSet) -> Result<Vec<Task>, BadImage> {
    let old_shared = shared::OldShared::new(u32::MAX);
    let root_ids = TaskKobjIdsEntry::default();
    tree::read(&mut Reader { images, root_ids, anywhere: true, root: None, old_shared })
}

/// What is being written.
struct Writer<'a> {
    checkpoint: &'a Checkpoint,
    namespaces: &'a NamespaceIds,
    chains: seccomp::Chains,
    images: Vec<(String, Vec<u8>)>,
}

impl Writer<'_> {
    /// An image of one entry.
    fn one<M: Message>(&mut self, kind: ImageKind, number: u32, message: &M) {
        let mut image = FrameWriter::new(kind);
        image.entry(message);
        self.images.push((kind.name(number), image.finish()));
    }

    /// An image of many entries.
    fn many<M: Message>(
        &mut self,
        kind: ImageKind,
        number: u32,
        messages: impl Iterator<Item = M>,
    ) {
        let mut image = FrameWriter::new(kind);
        for message in messages {
            image.entry(&message);
        }
        self.images.push((kind.name(number), image.finish()));
    }
}

/// What is being read.
struct Reader<'a> {
    images: &'a ImageSet,
    root_ids: TaskKobjIdsEntry,
    /// Processes may be in namespaces of their own.
    anywhere: bool,
    /// Known once the tree is.
    root: Option<TaskId>,
    old_shared: shared::OldShared,
}

impl<'a> Reader<'a> {
    /// An image that may be missing, its head checked.
    fn open(
        &self,
        kind: ImageKind,
        number: u32,
    ) -> Result<Option<FrameReader<&'a [u8]>>, BadImage> {
        let name = kind.name(number);
        let Some(bytes) = self.images.get(&name) else { return Ok(None) };
        FrameReader::open(&name, kind, bytes).map(Some)
    }

    /// The entry of an image that must be there.
    fn one<M: Message + Default>(&self, kind: ImageKind, number: u32) -> Result<M, BadImage> {
        match self.open(kind, number)? {
            Some(frame) => frame.single(),
            None => Err(BadImage::Missing { image: kind.name(number) }),
        }
    }

    /// Every entry of an image; a missing image has none.
    fn each<M: Message + Default>(
        &self,
        kind: ImageKind,
        number: u32,
        mut take: impl FnMut(M) -> Result<(), BadField>,
    ) -> Result<(), BadImage> {
        let Some(mut frame) = self.open(kind, number)? else { return Ok(()) };
        while let Some(message) = frame.message()? {
            take(message).map_err(|lie| lie.at(frame.image(), frame.entry_number()))?;
        }
        Ok(())
    }

    fn ids(&self, task: TaskId, core: &CoreEntry) -> Result<TaskKobjIdsEntry, BadImage> {
        namespaces::read_ids(self, task, core)
    }
}
