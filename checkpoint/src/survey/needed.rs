//! The files the destination must have.

use std::collections::{BTreeMap, HashMap};
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use image::plan::{PlannedFile, PlannedKind, build_id};

use super::named::{Named, allocated};

/// Files by path, each once; and files without a name, whose content travels.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    named: BTreeMap<String, PlannedFile>,
    ghosts: HashMap<(u64, u64), u64>,
    /// Files whose content travels with their names, unless a stock CRIU takes the tree.
    carried: BTreeMap<String, PlannedFile>,
}

/// How a file is used: whether its size must agree, and whether it is worth a look for a build id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Run, or mapped with PROT_EXEC.
    Code,
    /// Mapped or open.
    Data,
    /// Others write to it while it is open: its size need not agree.
    Log,
    /// A place and no more: stood in, or opened with O_PATH.
    Place,
}

impl Needed {
    /// Adds a file that is needed as `used_as` says.
    pub(crate) fn add(
        &mut self,
        named: &Named,
        stat: &Metadata,
        how: Use,
        used_as: impl FnOnce() -> String,
    ) {
        let path = match named {
            Named::Ghost(_) => {
                self.ghosts.insert((stat.dev(), stat.ino()), allocated(stat));
                return;
            }
            Named::Carried(path) => {
                self.ghosts.insert((stat.dev(), stat.ino()), allocated(stat));
                let file = PlannedFile {
                    path: path.clone(),
                    kind: PlannedKind::Regular,
                    size: Some(stat.size()),
                    mode: stat.mode(),
                    build_id: None,
                    rdev: None,
                    used_as: used_as(),
                };
                self.carried.entry(path.clone()).or_insert(file);
                return;
            }
            Named::Path(path) => path,
        };
        if let Some(known) = self.named.get_mut(path) {
            if how == Use::Code && known.build_id.is_none() {
                known.build_id = build_id(Path::new(path));
            }
            return;
        }
        let kind = stat.file_type();
        let (kind, size) = if kind.is_dir() {
            (PlannedKind::Directory, None)
        } else if kind.is_char_device() {
            (PlannedKind::CharDevice, None)
        } else if kind.is_block_device() {
            (PlannedKind::BlockDevice, None)
        } else if kind.is_fifo() {
            (PlannedKind::Fifo, None)
        } else if kind.is_file() {
            let content = !matches!(how, Use::Log | Use::Place);
            (PlannedKind::Regular, content.then_some(stat.size()))
        } else {
            // A symbolic link or a socket as a place: whoever restores compares the mode.
            return;
        };
        let device = matches!(kind, PlannedKind::CharDevice | PlannedKind::BlockDevice);
        let file = PlannedFile {
            path: path.clone(),
            kind,
            size,
            mode: stat.mode(),
            build_id: if how == Use::Code { build_id(Path::new(path)) } else { None },
            rdev: device.then_some(stat.rdev()),
            used_as: used_as(),
        };
        self.named.insert(path.clone(), file);
    }

    /// The named ones, by path.
    pub(crate) fn files(self: &Needed) -> Vec<PlannedFile> {
        self.named.values().cloned().collect()
    }

    /// Those that the native engine brings along and a stock CRIU does not.
    pub(crate) fn brought(&self) -> Vec<PlannedFile> {
        self.carried.values().cloned().collect()
    }

    /// Bytes of those without a name.
    pub(crate) fn ghosts(&self) -> u64 {
        self.ghosts.values().sum()
    }
}
