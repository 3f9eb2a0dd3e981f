//! Open files: descriptor tables, and each open file description once, however many descriptors
//! (dup, fork) show it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, Metadata};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use image::state::{
    Fd, FdTable, FdTableId, File, FileId, Ghost, GhostId, Owner, PipeBuffer, PipeId, SharedMemory,
};
use nix::libc;
use pages::{PageSet, SharedId};
use tracee::HostPid;
use tracee::host::{file_owner, file_owner_uids, file_signal, pidfd_getfd, pidfd_open, same_file};
use tracee::proc::fdinfo::FdInfo;

use super::carried::Carried;
use super::described::position;
use super::locks::{Finder, Locks};
use super::sockets::SocketTables;
use super::streams;
use super::{CollectOptions, Refusals};
use crate::error::CollectError;
use crate::survey::locks;
use crate::survey::refusals::Whose;
use crate::survey::sysv::{self, Segment};
use crate::survey::terminal::End;

/// All files of a tree, as they are found.
pub(super) struct Files<'o> {
    pub(super) options: &'o CollectOptions<'o>,
    pub(super) shell_job: bool,
    /// Terminals, which end each is, and who has it: the first descriptor seen.
    pub(super) terminals: Vec<(FileId, End, String)>,
    /// Every process of the tree, zombies too.
    pub(super) members: HashSet<u32>,
    pub(super) sockets: Option<SocketTables>,
    pub(super) files: Vec<File>,
    tables: Vec<FdTable>,
    /// Descriptions that look alike from outside: told apart by kcmp(2), in whose order they are.
    alike: HashMap<Look, Vec<Known>>,
    /// Files that are mapped, run or stood in.
    pub(super) standing: HashMap<(u64, u64, String), FileId>,
    /// By device and inode.
    pub(super) pipes: HashMap<(u64, u64), PipeId>,
    pub(super) buffers: Vec<PipeBuffer>,
    pub(super) ghosts: HashMap<(u64, u64), GhostId>,
    pub(super) bodies: Vec<Ghost>,
    pub(super) carried: Carried,
    pub(super) shared: HashMap<(u64, u64), SharedId>,
    pub(super) objects: Vec<SharedMemory>,
    /// Every segment of System V shared memory, and how many mappings of the tree show which.
    pub(super) segments: Vec<Segment>,
    pub(super) attached: BTreeMap<i32, u64>,
    locks: Finder,
    pub(super) streams: Vec<streams::Found>,
    /// Unix sockets whose queues are still to be read.
    pub(super) queues: Vec<(FileId, OwnedFd, String)>,
    /// Files that were found in queues; kept, because they are compared with others.
    pub(super) flying: Vec<OwnedFd>,
    /// Content of shared memory.
    pub(super) contents: Vec<(SharedId, PageSet, OwnedFd)>,
}

/// What two descriptors of one description have in common. The position may not change: nothing
/// runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Look {
    dev: u64,
    inode: u64,
    position: u64,
    flags: u32,
    link: PathBuf,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    holder: (HostPid, i32),
    id: FileId,
}

/// A descriptor being looked at.
pub(super) struct Found<'a> {
    pub(super) whose: &'a Whose,
    pub(super) number: u32,
    pub(super) way: &'a Path,
    pub(super) link: &'a Path,
    pub(super) stat: &'a Metadata,
    pub(super) info: &'a FdInfo,
    pub(super) flags: u32,
}

/// Everything found.
pub(super) struct Collected {
    pub(super) files: Vec<File>,
    pub(super) tables: Vec<FdTable>,
    pub(super) pipes: Vec<PipeBuffer>,
    pub(super) ghosts: Vec<Ghost>,
    pub(super) carried: Carried,
    pub(super) shared: Vec<SharedMemory>,
    pub(super) contents: Vec<(SharedId, PageSet, OwnedFd)>,
    pub(super) locks: Locks,
    /// Connections that are still to be read.
    pub(super) streams: Vec<streams::Found>,
}

impl<'o> Files<'o> {
    pub(super) fn new(
        options: &'o CollectOptions<'o>,
        shell_job: bool,
        members: impl Iterator<Item = HostPid>,
    ) -> Self {
        Self {
            options,
            shell_job,
            terminals: Vec::new(),
            members: members.map(|pid| pid.0.unsigned_abs()).collect(),
            sockets: None,
            files: Vec::new(),
            tables: Vec::new(),
            alike: HashMap::new(),
            standing: HashMap::new(),
            pipes: HashMap::new(),
            buffers: Vec::new(),
            ghosts: HashMap::new(),
            bodies: Vec::new(),
            carried: Carried::default(),
            shared: HashMap::new(),
            objects: Vec::new(),
            segments: sysv::segments(),
            attached: BTreeMap::new(),
            locks: Finder::default(),
            streams: Vec::new(),
            queues: Vec::new(),
            flying: Vec::new(),
            contents: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> Collected {
        Collected {
            files: self.files,
            tables: self.tables,
            pipes: self.buffers,
            ghosts: self.bodies,
            carried: self.carried,
            shared: self.objects,
            contents: self.contents,
            locks: self.locks.finish(),
            streams: self.streams,
        }
    }

    pub(super) fn ghost_limit(&self) -> u64 {
        self.options.ghost_limit.0
    }

    /// Reads the descriptor table of a process.
    pub(super) fn table(
        &mut self,
        whose: &Whose,
        refusals: &mut Refusals,
    ) -> Result<FdTableId, CollectError> {
        let pid = whose.pid;
        let id = FdTableId(number(self.tables.len()));
        let process = pidfd_open(pid)?;
        let mut fds: Vec<Fd> = Vec::new();
        let numbers = crate::survey::tree::descriptors(pid)
            .map_err(CollectError::io("list the descriptors", pid))?;
        for number in numbers {
            let (file, info) = self.descriptor(whose, number, &process, refusals)?;
            let close_on_exec = info.flags & libc::O_CLOEXEC.cast_unsigned() != 0;
            if let Some(file) = file {
                if !info.locks.is_empty() {
                    let again = fds.iter().any(|fd| fd.file == file);
                    self.locks.add(pid, number, file, &info, again);
                }
                fds.push(Fd { number, file, close_on_exec });
            }
        }
        self.tables.push(FdTable { id, fds });
        Ok(id)
    }

    /// The file behind a descriptor, none if it is refused, and what fdinfo says of it.
    pub(super) fn descriptor(
        &mut self,
        whose: &Whose,
        number: u32,
        process: &OwnedFd,
        refusals: &mut Refusals,
    ) -> Result<(Option<FileId>, FdInfo), CollectError> {
        let pid = whose.pid;
        let way = PathBuf::from(format!("/proc/{}/fd/{number}", pid.0));
        let failed = CollectError::io("look at a descriptor", pid);
        let link = fs::read_link(&way).map_err(&failed)?;
        let stat = fs::metadata(&way).map_err(&failed)?;
        let info = FdInfo::read(pid, number.cast_signed())?;
        let flags = info.flags & !libc::O_CLOEXEC.cast_unsigned();
        let found =
            Found { whose, number, way: &way, link: &link, stat: &stat, info: &info, flags };
        Ok((self.description(&found, process, refusals)?, info))
    }

    /// The description a descriptor shows: one that is known, or a new one.
    fn description(
        &mut self,
        found: &Found,
        process: &OwnedFd,
        refusals: &mut Refusals,
    ) -> Result<Option<FileId>, CollectError> {
        let holder = (found.whose.pid, found.number.cast_signed());
        let look = Look {
            dev: found.stat.dev(),
            inode: found.stat.ino(),
            position: position(found.info),
            flags: found.flags,
            link: found.link.to_owned(),
        };
        let at = match self.alike.get(&look) {
            Some(known) => match search(known, holder)? {
                Ok(at) => return Ok(Some(known[at].id)),
                Err(at) => at,
            },
            None => 0,
        };
        let copy = pidfd_getfd(process, holder.1)?;
        let id = FileId(number(self.files.len()) + 1);
        let kind = match self.kind(found, &copy, refusals)? {
            Ok(kind) => kind,
            Err(trouble) => {
                refusals.add(trouble, found.whose.fd(found.number));
                return Ok(None);
            }
        };
        for trouble in locks::troubles(found.info, found.link) {
            refusals.add(trouble, found.whose.fd(found.number));
        }
        // A place has no owner (open(2), O_PATH).
        let owner = match found.flags & libc::O_PATH.cast_unsigned() {
            0 => owner(&copy).map_err(CollectError::io("read the owner of a file", holder.0))?,
            _ => Owner::default(),
        };
        self.files.push(File { id, flags: found.flags, owner, kind });
        self.alike.entry(look).or_default().insert(at, Known { holder, id });
        Ok(Some(id))
    }
}

/// Where `holder` is among descriptions that look alike, or where it belongs.
fn search(known: &[Known], holder: (HostPid, i32)) -> Result<Result<usize, usize>, CollectError> {
    let (mut from, mut to) = (0, known.len());
    while from < to {
        let middle = from.midpoint(to);
        match same_file(known[middle].holder, holder)? {
            Ordering::Equal => return Ok(Ok(middle)),
            Ordering::Less => from = middle + 1,
            Ordering::Greater => to = middle,
        }
    }
    Ok(Err(from))
}

fn owner(copy: &OwnedFd) -> std::io::Result<Owner> {
    let owner = file_owner(copy.as_fd())?;
    let [uid, euid] = file_owner_uids(copy.as_fd())?;
    Ok(Owner {
        uid,
        euid,
        signal: file_signal(copy.as_fd())?.unsigned_abs(),
        pid_type: owner.kind.unsigned_abs(),
        pid: owner.pid.unsigned_abs(),
    })
}

/// Ids count from the lengths of our own lists; nobody has 2^32 open files.
pub(super) fn number(length: usize) -> u32 {
    u32::try_from(length).expect("fewer than 2^32 objects")
}
