//! From a stream of entries to files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, linkat,
    mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::beneath::{Beneath, path_of};
use crate::entry::{About, Entry, Kind, Moment};
use crate::error::{Error, Result};
use crate::pack::{Sent, names};
use crate::path::RelPath;
use crate::stream::{Piece, StreamReader};

/// Names that are remembered.
const MOST_REMEMBERED: usize = 1 << 20;

/// Makes files in a folder as entries tell of them.
#[derive(Debug)]
pub struct Unpacker {
    beneath: Beneath,
    remembering: bool,
    names: HashMap<RelPath, bool>,
    buffer: Vec<u8>,
    done: Sent,
}

impl Unpacker {
    /// In this folder.
    pub fn new(folder: &Path) -> Result<Self> {
        let shown = folder.display().to_string();
        let opened = Beneath::open(folder);
        let beneath =
            opened.map_err(|source| Error::Folder { act: "open", folder: shown, source })?;
        let names = HashMap::new();
        let done = Sent::default();
        Ok(Self { beneath, remembering: false, names, buffer: Vec::new(), done })
    }

    /// The same, and remembers what came.
    #[must_use]
    pub fn remembering(self) -> Self {
        Self { remembering: true, ..self }
    }

    /// Every name that came, if they are remembered: true if there is a file of that name.
    pub fn names(&self) -> &HashMap<RelPath, bool> {
        &self.names
    }

    /// True if that is a folder here.
    pub fn is_folder(&self, path: &RelPath) -> bool {
        self.beneath.at(path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
    }

    /// What was made so far.
    pub fn done(&self) -> Sent {
        self.done
    }

    /// Removes what is there. True if there was something.
    pub fn remove(&self, path: &RelPath) -> Result<bool> {
        self.beneath.remove(path).map_err(Error::os("remove", path))
    }

    /// Makes what a whole stream tells of.
    pub fn unpack(&mut self, from: impl Read) -> Result<()> {
        let mut reader = StreamReader::new(from);
        while let Some(entry) = reader.entry()? {
            self.make(&entry, &mut reader)?;
            self.done.files += 1;
            if self.remembering {
                self.names.insert(entry.path, entry.kind != Kind::Gone);
                if self.names.len() > MOST_REMEMBERED {
                    return Err(Error::TooMany(MOST_REMEMBERED));
                }
            }
        }
        Ok(())
    }

    fn make(&mut self, entry: &Entry, reader: &mut StreamReader<impl Read>) -> Result<()> {
        let Entry { path, kind, about } = entry;
        let act = "make";
        if *kind == Kind::Gone {
            return self.remove(path).map(drop);
        }
        if *kind == Kind::Directory {
            self.folder(path)?;
            return self.finish(path, about);
        }
        self.remove(path)?;
        let (folder, name) = self.beneath.parent(path).map_err(Error::os(act, path))?;
        let node = |kind, device| mknodat(&folder, name, kind, Mode::RUSR | Mode::WUSR, device);
        match kind {
            Kind::Regular => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let mode = Mode::RUSR | Mode::WUSR;
                let file = openat(&folder, name, flags | OFlags::CLOEXEC, mode);
                let file = File::from(file.map_err(Error::os(act, path))?);
                self.fill(path, &file, reader)?;
            }
            Kind::Link(first) => {
                let (from, known) = self.beneath.parent(first).map_err(Error::os(act, path))?;
                linkat(&from, known, &folder, name, AtFlags::empty())
                    .map_err(Error::os(act, path))?;
                return Ok(());
            }
            Kind::Symlink(target) => {
                symlinkat(&**target, &folder, name).map_err(Error::os(act, path))?;
            }
            Kind::Character(device) => {
                node(FileType::CharacterDevice, *device).map_err(Error::os(act, path))?;
            }
            Kind::Block(device) => {
                node(FileType::BlockDevice, *device).map_err(Error::os(act, path))?;
            }
            Kind::Fifo => node(FileType::Fifo, 0).map_err(Error::os(act, path))?,
            Kind::Socket => node(FileType::Socket, 0).map_err(Error::os(act, path))?,
            Kind::Directory | Kind::Gone => unreachable!("done above"),
        }
        self.finish(path, about)
    }

    /// Makes a folder, unless it is there.
    fn folder(&self, path: &RelPath) -> Result<()> {
        if *path == RelPath::root() {
            return Ok(());
        }
        let made = self
            .beneath
            .parent(path)
            .and_then(|(folder, name)| Ok(mkdirat(&folder, name, Mode::RWXU)?));
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if self.beneath.at(path, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
                    return Ok(());
                }
                self.remove(path)?;
                let (folder, name) = self.beneath.parent(path).map_err(Error::os("make", path))?;
                mkdirat(&folder, name, Mode::RWXU).map_err(Error::os("make", path))
            }
            other => other.map_err(Error::os("make", path)),
        }
    }

    /// Writes its content as it comes.
    fn fill(
        &mut self,
        path: &RelPath,
        file: &File,
        reader: &mut StreamReader<impl Read>,
    ) -> Result<()> {
        loop {
            match reader.piece(&mut self.buffer)? {
                Piece::Bytes { at, length } => {
                    let bytes = &self.buffer[..length];
                    file.write_all_at(bytes, at).map_err(Error::os("write", path))?;
                    self.done.bytes += length as u64;
                }
                Piece::End(size) => return file.set_len(size).map_err(Error::os("write", path)),
            }
        }
    }

    /// Gives it its owner, permissions, attributes and times, in an order in which none undoes
    /// another.
    fn finish(&self, path: &RelPath, about: &About) -> Result<()> {
        let opened = self.beneath.at(path, OFlags::PATH).map_err(Error::os("open", path))?;
        let (owner, group) = (Uid::from_raw(about.owner), Gid::from_raw(about.group));
        chownat(&opened, "", Some(owner), Some(group), AtFlags::EMPTY_PATH)
            .map_err(Error::os("set the owner of", path))?;
        let is_link = rustix::fs::fstat(&opened)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        if !is_link {
            let mode = std::fs::Permissions::from_mode(about.mode);
            std::fs::set_permissions(path_of(&opened), mode)
                .map_err(Error::os("set permissions of", path))?;
        }
        attributes(&opened, about).map_err(Error::os("set attributes of", path))?;
        let spec =
            |moment: Moment| Timespec { tv_sec: moment.seconds, tv_nsec: moment.nanos.into() };
        let times = Timestamps {
            last_access: spec(about.accessed),
            last_modification: spec(about.modified),
        };
        let set = match path.split() {
            None => utimensat(rustix::fs::CWD, path_of(&opened), &times, AtFlags::empty()),
            Some((_, name)) => {
                let (folder, _) = self.beneath.parent(path).map_err(Error::os("open", path))?;
                utimensat(&folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        };
        set.map_err(Error::os("set times of", path))
    }
}

/// Exactly these, beside those that are the host's.
fn attributes(opened: &OwnedFd, about: &About) -> io::Result<()> {
    let place = path_of(opened);
    for name in names(opened)? {
        if !about.attributes.iter().any(|(wanted, _)| *wanted == name) {
            match rustix::fs::removexattr(&place, &*name) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    for (name, value) in &about.attributes {
        rustix::fs::setxattr(&place, &**name, value, XattrFlags::empty())?;
    }
    Ok(())
}
