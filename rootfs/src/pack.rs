//! From files to a stream of entries.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{FileType, OFlags, SeekFrom, Statx, StatxTimestamp};
use rustix::io::Errno;

use crate::beneath::{Beneath, inode, is_nothing, path_of, stat_of};
use crate::entry::{About, Entry, Kind, Moment};
use crate::error::{Error, Result};
use crate::index::{Changes, Index};
use crate::path::RelPath;
use crate::stream::{PIECE, StreamWriter};

/// Bytes of all names of extended attributes of a file: XATTR_LIST_MAX.
const LONGEST_LIST: usize = 64 << 10;
/// Bytes of one: XATTR_SIZE_MAX.
const LONGEST_VALUE: usize = 64 << 10;

/// A folder whose files are taken.
#[derive(Debug)]
pub struct Tree {
    pub(crate) beneath: Beneath,
}

/// Whether somebody may use the files meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// They run: what changes under our eyes is looked at again later.
    Run,
    /// They stand still: what changes is an error.
    Stand,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Entries of files, those that are gone among them.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
}

/// Entries on their way out.
struct Packer<'a, W> {
    tree: &'a Tree,
    users: Users,
    writer: StreamWriter<W>,
    /// Where each file was told of that has more names.
    names: HashMap<(u64, u64), RelPath>,
    buffer: Vec<u8>,
    lost: Vec<RelPath>,
    sent: Sent,
}

impl Tree {
    /// This folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let shown = folder.display().to_string();
        let opened = Beneath::open(folder);
        let beneath =
            opened.map_err(|source| Error::Folder { act: "open", folder: shown, source })?;
        Ok(Self { beneath })
    }

    /// Sends what has changed, as `index` knows it. Whatever is gone goes first, and the times of
    /// folders are told last. What users have taken away meanwhile the index knows no more.
    pub fn send(
        &self,
        index: &mut Index,
        changes: &Changes,
        users: Users,
        to: impl Write,
    ) -> Result<Sent> {
        let mut packer = Packer {
            tree: self,
            users,
            writer: StreamWriter::new(to),
            names: HashMap::new(),
            buffer: vec![0; PIECE],
            lost: Vec::new(),
            sent: Sent::default(),
        };
        for path in &changes.gone {
            packer.writer.entry(&Entry::gone(path.clone()))?;
            packer.sent.files += 1;
        }
        for path in &changes.changed {
            packer.pass(path, index)?;
            packer.sent.files += 1;
        }
        for path in folders(index, changes).iter().rev() {
            packer.pass(path, index)?;
        }
        let Packer { writer, lost, sent, .. } = packer;
        writer.finish()?;
        for path in &lost {
            index.seen.remove(path);
        }
        Ok(sent)
    }
}

/// Folders that something has happened in: their times over there are not what they were.
fn folders(index: &Index, changes: &Changes) -> BTreeSet<RelPath> {
    let all = changes.gone.iter().chain(&changes.changed);
    let around = all.clone().filter_map(|path| Some(path.split()?.0));
    let is_folder = |path: &RelPath| {
        index.seen.get(path).is_some_and(|stamp| stamp.kind() == FileType::Directory)
    };
    all.cloned().chain(around).filter(is_folder).collect()
}

impl<W: Write> Packer<'_, W> {
    /// Sends one; if it is not there any more, and somebody may have removed it, nothing.
    fn pass(&mut self, path: &RelPath, index: &Index) -> Result<()> {
        match self.send(path, index) {
            Err(Error::Os { source, .. }) if is_nothing(&source) => match self.users {
                Users::Run => {
                    self.lost.push(path.clone());
                    Ok(())
                }
                Users::Stand => Err(Error::Restless(path.clone())),
            },
            other => other,
        }
    }

    fn send(&mut self, path: &RelPath, index: &Index) -> Result<()> {
        let Some(stamp) = index.seen.get(path) else { return Ok(()) };
        if stamp.mounted {
            let stat = self.tree.beneath.stat(path).map_err(Error::os("look at", path))?;
            return self.mount_point(path, &stat);
        }
        let opened = self.tree.beneath.at(path, OFlags::PATH);
        let opened = opened.map_err(Error::os("open", path))?;
        let stat = stat_of(&opened).map_err(Error::os("look at", path))?;
        if inode(&stat) != stamp.inode {
            return Err(Error::os("look at", path)(Errno::NOENT)); // another has its name
        }
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::Regular,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&opened, "", Vec::new());
                Kind::Symlink(target.map_err(Error::os("read", path))?.into_bytes())
            }
            FileType::CharacterDevice => Kind::Character(device(&stat)),
            FileType::BlockDevice => Kind::Block(device(&stat)),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => return Ok(()),
        };
        if let Some(first) = self.names.get(&stamp.inode) {
            let (kind, about) = (Kind::Link(first.clone()), About::default());
            return self.writer.entry(&Entry { path: path.clone(), kind, about });
        }
        let attributes = attributes(&opened).map_err(Error::os("read attributes of", path))?;
        let about = About { attributes, ..about(&stat) };
        let content = match &kind {
            Kind::Regular => Some(self.content(path, &stat)?),
            _ => None,
        };
        if kind != Kind::Directory && stat.stx_nlink > 1 {
            self.names.insert(stamp.inode, path.clone());
        }
        self.writer.entry(&Entry { path: path.clone(), kind, about })?;
        content.map_or(Ok(()), |file| self.pieces(path, &file, stat.stx_size))
    }

    /// What is mounted there is not the container's own.
    fn mount_point(&mut self, path: &RelPath, stat: &Statx) -> Result<()> {
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Kind::Directory,
            _ => Kind::Regular,
        };
        let file = kind == Kind::Regular;
        self.writer.entry(&Entry { path: path.clone(), kind, about: about(stat) })?;
        if file { self.writer.end_of_file(0) } else { Ok(()) }
    }

    /// Opens a plain file, if it still is the one that was looked at.
    fn content(&self, path: &RelPath, stat: &Statx) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = match self.tree.beneath.at(path, flags | OFlags::NOATIME) {
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                self.tree.beneath.at(path, flags)
            }
            other => other,
        };
        let file = File::from(opened.map_err(Error::os("open", path))?);
        let now = file.metadata().map_err(Error::os("look at", path))?;
        use std::os::unix::fs::MetadataExt as _;
        match now.is_file() && now.ino() == stat.stx_ino {
            true => Ok(file),
            false => Err(Error::os("open", path)(Errno::NOENT)),
        }
    }

    /// Sends what is in it, but not its holes.
    fn pieces(&mut self, path: &RelPath, file: &File, size: u64) -> Result<()> {
        let act = "read";
        let mut at = 0;
        while at < size {
            let (start, end) = match data(file, at, size).map_err(Error::os(act, path))? {
                Some(stretch) => stretch,
                None => break,
            };
            at = start;
            while at < end {
                let most = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
                let read = file.read_at(&mut self.buffer[..most], at);
                let read = match read {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    other => other.map_err(Error::os(act, path))?,
                };
                if read == 0 {
                    return self.shorter(path, at);
                }
                self.writer.piece(at, &self.buffer[..read])?;
                self.sent.bytes += read as u64;
                at += read as u64;
            }
        }
        self.writer.end_of_file(size)
    }

    /// It became shorter while it was read.
    fn shorter(&mut self, path: &RelPath, size: u64) -> Result<()> {
        match self.users {
            Users::Run => self.writer.end_of_file(size),
            Users::Stand => Err(Error::Restless(path.clone())),
        }
    }
}

/// The next stretch that is no hole.
fn data(file: &File, from: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) => start.min(size),
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((from, size))),
        Err(error) => return Err(error.into()),
    };
    let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end.min(size),
        Err(_) => size,
    };
    Ok(Some((start, end.max(start))).filter(|(start, end)| start < end))
}

fn about(stat: &Statx) -> About {
    let moment = |time: StatxTimestamp| Moment { seconds: time.tv_sec, nanos: time.tv_nsec };
    About {
        mode: u32::from(stat.stx_mode) & 0o7777,
        owner: stat.stx_uid,
        group: stat.stx_gid,
        accessed: moment(stat.stx_atime),
        modified: moment(stat.stx_mtime),
        attributes: Vec::new(),
    }
}

fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor)
}

/// Attributes that are the file's own, and not what this host thinks of it.
pub(crate) fn is_carried(name: &[u8]) -> bool {
    const OF_THE_HOST: [&[u8]; 3] = [b"security.selinux", b"security.ima", b"security.evm"];
    !OF_THE_HOST.contains(&name) && !name.starts_with(b"trusted.overlay.")
}

/// Their names. Files of some file systems have none.
pub(crate) fn names(opened: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    let mut list = vec![0; LONGEST_LIST];
    let length = match rustix::fs::listxattr(path_of(opened), &mut *list) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let names = list[..length].split(|byte| *byte == 0);
    Ok(names.filter(|name| !name.is_empty() && is_carried(name)).map(<[u8]>::to_vec).collect())
}

fn attributes(opened: &OwnedFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut all = Vec::new();
    for name in names(opened)? {
        let mut value = vec![0; LONGEST_VALUE];
        match rustix::fs::getxattr(path_of(opened), &*name, &mut *value) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error.into()),
        }
        all.push((name, value));
    }
    Ok(all)
}
