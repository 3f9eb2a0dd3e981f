//! Paths of terminals and of pipes with names.
//!
//! CRIU keeps the path of such a file in a file entry of its own, which no descriptor names. It is
//! made when writing and dropped again when reading.

use std::collections::{HashMap, HashSet};

use super::Reader;
use crate::error::{BadField, BadImage};
use crate::kind::ImageKind;
use crate::messages::FileEntry;
use crate::state::{Checkpoint, File, FileId, FileKind, Owner, Regular, VmaKind};

const O_RDWR: u32 = 2;

/// Ids that no file has yet: those above all others, as long as there are any.
pub(super) struct FreeIds {
    used: HashSet<u32>,
    next: u32,
}

impl FreeIds {
    pub(super) fn new(used: impl Iterator<Item = u32>) -> Self {
        let used: HashSet<u32> = used.collect();
        let next = used.iter().max().map_or(1, |last| last.wrapping_add(1));
        Self { used, next }
    }

    fn take(&mut self) -> u32 {
        loop {
            let id = self.next;
            self.next = id.wrapping_add(1);
            if id != 0 && !self.used.contains(&id) {
                return id;
            }
        }
    }

    /// The entry that holds the path of `file`, if its kind has one.
    pub(super) fn node_of(&mut self, file: &File) -> Option<File> {
        // CRIU opens a pipe with the flags of its node, and a terminal with its own.
        let (path, mode, flags, owner) = match &file.kind {
            FileKind::Tty(tty) => (tty.path.clone(), None, O_RDWR, Owner::default()),
            FileKind::Fifo(fifo) => (fifo.path.clone(), fifo.mode, file.flags, file.owner),
            _ => return None,
        };
        let kind = FileKind::Regular(Regular {
            path,
            position: Some(0),
            size: None,
            mode,
            rdev: None,
            ghost: None,
        });
        Some(File { id: FileId(self.take()), flags, owner, kind })
    }
}

/// Gives each terminal and pipe what its node says, and drops nodes that nothing else names.
pub(super) fn drop_nodes(reader: &Reader<'_>, checkpoint: &mut Checkpoint) -> Result<(), BadImage> {
    let mut nodes = HashMap::new();
    reader.each(ImageKind::Files, 0, |entry: FileEntry| {
        let of_tty = entry.tty.as_deref().and_then(|tty| tty.regf_id);
        let of_pipe = entry.fifo.as_deref().and_then(|fifo| fifo.regf_id);
        if let Some(node) = of_tty.or(of_pipe) {
            nodes.insert(FileId(entry.id), FileId(node));
        }
        Ok(())
    })?;
    if nodes.is_empty() {
        return Ok(());
    }
    let found: HashMap<FileId, (String, Option<u32>, u32, Owner)> = checkpoint
        .files
        .iter()
        .filter_map(|file| match &file.kind {
            FileKind::Regular(Regular { path, mode, .. }) => {
                Some((file.id, (path.clone(), *mode, file.flags, file.owner)))
            }
            _ => None,
        })
        .collect();
    for file in &mut checkpoint.files {
        let Some(node) = nodes.get(&file.id) else { continue };
        let get = |field| {
            let lie = || BadField::kind(field, node.0, "a file with a path");
            found.get(node).ok_or_else(|| lie().at("files.img", 0))
        };
        match &mut file.kind {
            FileKind::Tty(tty) => tty.path.clone_from(&get("tty.regf_id")?.0),
            FileKind::Fifo(fifo) => {
                let (path, mode, flags, owner) = get("fifo.regf_id")?;
                fifo.path.clone_from(path);
                fifo.mode = *mode;
                (file.flags, file.owner) = (*flags, *owner);
            }
            _ => {}
        }
    }
    let named = named_files(checkpoint);
    let dropped: HashSet<&FileId> = nodes.values().filter(|node| !named.contains(node)).collect();
    checkpoint.files.retain(|file| !dropped.contains(&file.id));
    Ok(())
}

/// Files that a descriptor, a mapping or a place in the file system names.
fn named_files(checkpoint: &Checkpoint) -> HashSet<FileId> {
    let of_tables = checkpoint.fd_tables.iter().flat_map(|table| &table.fds).map(|fd| fd.file);
    let of_tasks = checkpoint.tasks.iter().filter_map(|task| task.living()).flat_map(|living| {
        let mapped = living.mm.vmas.iter().filter_map(|vma| match vma.kind {
            VmaKind::File { file, .. } | VmaKind::Memfd { file, .. } => Some(file),
            _ => None,
        });
        mapped.chain([living.mm.exe, living.fs.cwd, living.fs.root])
    });
    of_tables.chain(of_tasks).collect()
}
