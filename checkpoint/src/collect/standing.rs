//! Files by name: those that are mapped, run or stood in, and what any descriptor with a path shows.

use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use image::state::{File, FileId, FileKind, GhostId, Owner, Regular};
use nix::libc;
use tracee::HostPid;

use super::files::{Files, number};
use super::{Refusals, ghosts};
use crate::error::CollectError;
use crate::survey::mapped::{MappedFile, Shows};
use crate::survey::named::{Named, named};
use crate::survey::refusals::Whose;

impl Files<'_> {
    /// The file behind a mapping.
    pub(super) fn mapped(
        &mut self,
        pid: HostPid,
        file: &MappedFile,
    ) -> Result<FileId, CollectError> {
        match &file.shows {
            Shows::Memfd(name) => {
                let key = (file.stat.dev(), file.stat.ino(), String::new());
                if let Some(id) = self.standing.get(&key) {
                    return Ok(*id);
                }
                let shared = self.shared(pid, name.clone(), &file.stat, &file.way)?;
                Ok(self.stand(key, FileKind::Memfd { shared, position: 0 }))
            }
            Shows::File(named) => self.known_by_name(pid, named, &file.stat, &file.way),
            _ => Err(CollectError::Nonsense { what: "the mappings", pid }),
        }
    }

    /// What /proc/PID/exe, cwd or root shows.
    pub(super) fn standing(
        &mut self,
        whose: &Whose,
        what: &str,
        refusals: &mut Refusals,
    ) -> Result<Option<FileId>, CollectError> {
        let way = PathBuf::from(format!("/proc/{}/{what}", whose.pid.0));
        let failed = CollectError::io("look at the program or directories", whose.pid);
        let link = fs::read_link(&way).map_err(&failed)?;
        let stat = fs::metadata(&way).map_err(&failed)?;
        match named(&link, &stat, self.ghost_limit()) {
            Ok(named) => self.known_by_name(whose.pid, &named, &stat, &way).map(Some),
            Err(trouble) => {
                refusals.add(trouble, format!("{what} of {}", whose.process()));
                Ok(None)
            }
        }
    }

    fn known_by_name(
        &mut self,
        pid: HostPid,
        named: &Named,
        stat: &Metadata,
        way: &Path,
    ) -> Result<FileId, CollectError> {
        let (Named::Path(path) | Named::Ghost(path) | Named::Carried(path)) = named;
        let key = (stat.dev(), stat.ino(), path.clone());
        if let Some(id) = self.standing.get(&key) {
            return Ok(*id);
        }
        let position = (!stat.is_dir()).then_some(0);
        let regular = self.regular(pid, named.clone(), stat, position, 0, way)?;
        Ok(self.stand(key, FileKind::Regular(regular)))
    }

    /// CRIU writes files that are only mapped or stood in as opened for reading.
    fn stand(&mut self, key: (u64, u64, String), kind: FileKind) -> FileId {
        let id = FileId(number(self.files.len()) + 1);
        let flags = libc::O_RDONLY.cast_unsigned();
        self.files.push(File { id, flags, owner: Owner::default(), kind });
        self.standing.insert(key, id);
        id
    }

    pub(super) fn regular(
        &mut self,
        pid: HostPid,
        named: Named,
        stat: &Metadata,
        position: Option<u64>,
        flags: u32,
        way: &Path,
    ) -> Result<Regular, CollectError> {
        let (path, ghost) = match named {
            Named::Path(path) => (path, None),
            Named::Ghost(path) => (path, Some(self.ghost(pid, stat, way, None)?)),
            Named::Carried(path) => {
                let ghost = self.ghost(pid, stat, way, Some(&path))?;
                (path, Some(ghost))
            }
        };
        let kind = stat.file_type();
        // A log that others append to may differ: CRIU leaves it out too.
        let appends = flags & (libc::O_WRONLY | libc::O_APPEND).cast_unsigned()
            == (libc::O_WRONLY | libc::O_APPEND).cast_unsigned();
        let place = flags & libc::O_PATH.cast_unsigned() != 0;
        Ok(Regular {
            path,
            position,
            size: (kind.is_file() && ghost.is_none() && !appends && !place).then_some(stat.size()),
            mode: ghost.is_none().then_some(stat.mode()),
            rdev: (kind.is_char_device() || kind.is_block_device()).then_some(stat.rdev()),
            ghost,
        })
    }

    fn ghost(
        &mut self,
        pid: HostPid,
        stat: &Metadata,
        way: &Path,
        name: Option<&str>,
    ) -> Result<GhostId, CollectError> {
        if let Some(id) = self.ghosts.get(&(stat.dev(), stat.ino())) {
            return Ok(*id);
        }
        let id = GhostId(number(self.bodies.len()) + 1);
        let read = if self.options.paged { ghosts::read_paged } else { ghosts::read };
        let found = read(id, stat, way).map_err(CollectError::io("read a deleted file", pid))?;
        let (mut ghost, content) = found;
        if let Some(name) = name {
            ghost.named = true;
            self.carried.note(name, stat.dev(), stat.ino());
        }
        self.contents.extend(ghost.paged.zip(content).map(|(id, (pages, file))| (id, pages, file)));
        self.bodies.push(ghost);
        self.ghosts.insert((stat.dev(), stat.ino()), id);
        Ok(id)
    }
}
