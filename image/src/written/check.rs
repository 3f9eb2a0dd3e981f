//! How the parts of a checkpoint refer to each other.

use std::collections::{HashMap, HashSet};

use pages::{ByteCount, PageCount, SharedId, TaskId, VirtAddr};

use crate::error::{BadField, BadImage};
use crate::kind::ImageKind;
use crate::state::check::{USER_END, absolute_path, comm};
use crate::state::{
    Body, Checkpoint, Fd, FdTableId, File, FileId, FileKind, Ghost, GhostId, Living, LockKind,
    Task, VmaKind,
};

/// Most processes and threads together; fewer than there are pids.
const MOST_THREADS: usize = 1 << 20;

impl Checkpoint {
    /// Checks everything that one part says of another: ids are unique and resolve to the right
    /// kind, parents come first, mappings are ascending and disjoint. [`Self::from_images`] has done
    /// so; for a checkpoint collected from a kernel it catches our own mistakes before they travel.
    ///
    /// Errors name the image that the part is, or would be, written to.
    pub fn check(&self) -> Result<(), BadImage> {
        check_tree(self)?;
        let index = Index::new(self)?;
        check_files(self)?;
        for task in &self.tasks {
            if let Some(living) = task.living() {
                check_living(task, living, &index)?;
            }
        }
        check_tables(self, &index)?;
        check_locks(self)
    }
}

/// Entry of an image whose entries are `number` in order.
fn at(kind: ImageKind, number: usize) -> impl Fn(BadField) -> BadImage {
    move |lie| lie.at(kind.name(0), number + 1)
}

/// The only entry of an image of a task.
fn of(kind: ImageKind, task: TaskId) -> impl Fn(BadField) -> BadImage {
    move |lie| lie.at(kind.name(task.0), 1)
}

fn check_tree(checkpoint: &Checkpoint) -> Result<(), BadImage> {
    if checkpoint.tasks.is_empty() {
        return Err(BadImage::Missing { image: ImageKind::Pstree.name(0) });
    }
    let (mut parents, mut numbers) = (HashSet::new(), HashSet::new());
    for (index, task) in checkpoint.tasks.iter().enumerate() {
        let at = at(ImageKind::Pstree, index);
        match task.parent {
            None if index > 0 => return Err(at(BadField::missing("ppid"))),
            Some(parent) if !parents.contains(&parent) => {
                return Err(at(BadField::unresolved(
                    "ppid",
                    "an earlier living process",
                    parent.0,
                )));
            }
            _ => {}
        }
        let threads = match &task.body {
            Body::Zombie { comm: name, .. } => {
                comm("tc.comm", name).map_err(of(ImageKind::Core, task.id))?;
                vec![task.id]
            }
            Body::Living(living) => {
                parents.insert(task.id);
                living.threads.iter().map(|thread| thread.id).collect()
            }
        };
        if threads.first() != Some(&task.id) {
            return Err(at(BadField::unresolved("threads", "as first thread", task.id.0)));
        }
        if let Some(twice) = threads.into_iter().find(|thread| !numbers.insert(*thread)) {
            return Err(at(BadField::twice("threads", "task", twice.0)));
        }
        if numbers.len() > MOST_THREADS {
            return Err(at(BadField::count("threads", numbers.len(), "at most 1048576 threads")));
        }
    }
    match checkpoint.tasks[0].body {
        Body::Living(_) => Ok(()),
        Body::Zombie { .. } => {
            let lie = BadField::value("tc.task_state", 2_u32, "a root that lives");
            Err(of(ImageKind::Core, checkpoint.tasks[0].id)(lie))
        }
    }
}

/// Everything that can be referred to.
struct Index<'a> {
    files: HashMap<FileId, &'a File>,
    tables: HashSet<FdTableId>,
    /// Segments of System V shared memory, and their bytes.
    segments: HashMap<SharedId, u64>,
}

impl<'a> Index<'a> {
    fn new(checkpoint: &'a Checkpoint) -> Result<Self, BadImage> {
        let mut files = HashMap::new();
        for (index, file) in checkpoint.files.iter().enumerate() {
            let at = at(ImageKind::Files, index);
            if file.id.0 == 0 {
                return Err(at(BadField::value("id", 0_u32, "a number, not zero")));
            }
            if files.insert(file.id, file).is_some() {
                return Err(at(BadField::twice("id", "file", file.id.0)));
            }
        }
        let mut tables = HashSet::new();
        for table in &checkpoint.fd_tables {
            if !tables.insert(table.id) {
                let lie = BadField::twice("files_id", "descriptor table", table.id.0);
                return Err(lie.at(ImageKind::FdInfo.name(table.id.0), 1));
            }
        }
        let segments = checkpoint.shared.iter().filter(|object| object.sysv.is_some());
        let segments = segments.map(|object| (object.id, object.size)).collect();
        Ok(Self { files, tables, segments })
    }

    fn regular(&self, field: &'static str, id: FileId) -> Result<(), BadField> {
        match self.files.get(&id).map(|file| &file.kind) {
            None => Err(BadField::unresolved(field, "file", id.0)),
            Some(FileKind::Regular(_)) => Ok(()),
            Some(_) => Err(BadField::kind(field, id.0, "a file with a path")),
        }
    }

    fn memfd(&self, field: &'static str, id: FileId) -> Result<(), BadField> {
        match self.files.get(&id).map(|file| &file.kind) {
            None => Err(BadField::unresolved(field, "file", id.0)),
            Some(FileKind::Memfd { .. }) => Ok(()),
            Some(_) => Err(BadField::kind(field, id.0, "a memfd")),
        }
    }
}

fn check_files(checkpoint: &Checkpoint) -> Result<(), BadImage> {
    let shared =
        unique(checkpoint.shared.iter().map(|object| object.id)).map_err(|(at_entry, id)| {
            at(ImageKind::Memfd, at_entry)(BadField::twice("shmid", "memfd", id.0))
        })?;
    let ghosts = unique(checkpoint.ghosts.iter().map(|ghost| ghost.id)).map_err(|(_, id)| {
        BadField::twice("id", "ghost", id.0).at(ImageKind::GhostFile.name(id.0), 1)
    })?;
    let mut spaces = shared.clone();
    unique(checkpoint.pipes.iter().map(|pipe| pipe.pipe)).map_err(|(at_entry, id)| {
        at(ImageKind::PipesData, at_entry)(BadField::twice("pipe_id", "pipe", id.0))
    })?;
    for ghost in &checkpoint.ghosts {
        check_ghost(ghost, &mut spaces)
            .map_err(|lie| lie.at(ImageKind::GhostFile.name(ghost.id.0), 1))?;
    }
    let ghost_of = |file: &File| match &file.kind {
        FileKind::Regular(regular) => regular.ghost,
        _ => None,
    };
    let used: HashSet<GhostId> = checkpoint.files.iter().filter_map(ghost_of).collect();
    if let Some(id) = ghosts.iter().find(|id| !used.contains(id)) {
        let lie = BadField::unresolved("remap_id", "a file that is ghost", id.0);
        return Err(lie.at(ImageKind::GhostFile.name(id.0), 1));
    }
    let (mut unix, mut inet, mut netlink) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut ends = HashSet::new();
    for (number, file) in checkpoint.files.iter().enumerate() {
        let at = at(ImageKind::Files, number);
        let fresh = match &file.kind {
            FileKind::Unix(socket) => unix.insert(socket.inode) && socket.inode != 0,
            FileKind::Inet(socket) => inet.insert(socket.inode),
            FileKind::Netlink(socket) => netlink.insert(socket.inode),
            FileKind::Pipe { pipe } => {
                ends.insert(*pipe);
                true
            }
            FileKind::Fifo(fifo) => {
                absolute_path("fifo.regf_id", &fifo.path).map_err(&at)?;
                ends.insert(fifo.pipe);
                true
            }
            FileKind::PidFd { task } => {
                if checkpoint.tasks.iter().all(|other| other.id != *task) {
                    return Err(at(BadField::unresolved("pidfd.nspid", "process", task.0)));
                }
                true
            }
            FileKind::Memfd { shared: id, .. } if !shared.contains(id) => {
                return Err(at(BadField::unresolved("memfd.inode_id", "memfd", id.0)));
            }
            FileKind::Regular(regular) => {
                absolute_path("reg.name", &regular.path).map_err(&at)?;
                match regular.ghost {
                    Some(id) if !ghosts.contains(&id) => {
                        return Err(at(BadField::unresolved("reg", "ghost", id.0)));
                    }
                    _ => true,
                }
            }
            FileKind::Tty(tty) => {
                absolute_path("tty.regf_id", &tty.path).map_err(&at)?;
                true
            }
            _ => true,
        };
        if !fresh {
            return Err(at(BadField::twice("ino", "socket", file.id.0)));
        }
    }
    let known: HashSet<FileId> = checkpoint.files.iter().map(|file| file.id).collect();
    for (number, file) in checkpoint.files.iter().enumerate() {
        if let FileKind::Unix(socket) = &file.kind {
            let mut flying = socket.queue.iter().flat_map(|packet| &packet.files);
            if let Some(lost) = flying.find(|file| !known.contains(file)) {
                let lie = BadField::unresolved("scm.rights", "file", lost.0);
                return Err(lie.at(ImageKind::SocketQueues.name(0), 0));
            }
        }
        if let FileKind::Unix(socket) = &file.kind
            && socket.peer != 0
            && !unix.contains(&socket.peer)
        {
            let lie = BadField::unresolved("usk.peer", "unix socket", socket.peer);
            return Err(at(ImageKind::Files, number)(lie));
        }
    }
    for (number, pipe) in checkpoint.pipes.iter().enumerate() {
        let at = at(ImageKind::PipesData, number);
        if !ends.contains(&pipe.pipe) {
            return Err(at(BadField::unresolved("pipe_id", "pipe", pipe.pipe.0)));
        }
        if pipe.bytes.len() as u64 > u64::from(pipe.capacity) {
            return Err(at(BadField::count(
                "bytes",
                pipe.bytes.len(),
                "no more than the pipe holds",
            )));
        }
    }
    Ok(())
}

/// All of them, or the first that was there before and where.
fn unique<T: Copy + Eq + std::hash::Hash>(
    items: impl Iterator<Item = T>,
) -> Result<HashSet<T>, (usize, T)> {
    let mut all = HashSet::new();
    for (index, item) in items.enumerate() {
        if !all.insert(item) {
            return Err((index, item));
        }
    }
    Ok(all)
}

fn check_ghost(ghost: &Ghost, spaces: &mut HashSet<SharedId>) -> Result<(), BadField> {
    if let Some(id) = ghost.paged {
        if !ghost.body.chunks.is_empty() {
            return Err(BadField::value("paged", id.0, "a file that has no content here"));
        }
        if !spaces.insert(id) {
            return Err(BadField::twice("paged", "space", id.0));
        }
    }
    let mut end = 0_u64;
    for (offset, bytes) in &ghost.body.chunks {
        let next = offset.checked_add(bytes.len() as u64).filter(|next| *next <= ghost.size);
        match next {
            Some(next) if *offset >= end => end = next,
            _ => return Err(BadField::value("off", *offset, "ascending places within the file")),
        }
    }
    Ok(())
}

fn check_living(task: &Task, living: &Living, index: &Index<'_>) -> Result<(), BadImage> {
    check_mm(living, index).map_err(of(ImageKind::Mm, task.id))?;
    index.regular("cwd_id", living.fs.cwd).map_err(of(ImageKind::Fs, task.id))?;
    index.regular("root_id", living.fs.root).map_err(of(ImageKind::Fs, task.id))?;
    if !index.tables.contains(&living.fds) {
        let lie = BadField::unresolved("files_id", "descriptor table", living.fds.0);
        return Err(of(ImageKind::Ids, task.id)(lie));
    }
    for thread in &living.threads {
        comm("thread_core.comm", &thread.comm).map_err(of(ImageKind::Core, thread.id))?;
    }
    check_timers(living).map_err(of(ImageKind::Core, task.id))?;
    match living.sigactions.len() {
        62 => Ok(()),
        count => {
            let lie = BadField::count("tc.sigactions", count, "signals 1 to 64 without 9 and 19");
            Err(of(ImageKind::Core, task.id)(lie))
        }
    }
}

fn check_mm(living: &Living, index: &Index<'_>) -> Result<(), BadField> {
    index.regular("exe_file_id", living.mm.exe)?;
    let mut end = VirtAddr(0);
    for vma in &living.mm.vmas {
        let (start, next) = (vma.range.start_addr(), vma.range.end_addr());
        if start < end {
            return Err(BadField::value(
                "vmas.start",
                start.0,
                "an address after the mapping before",
            ));
        }
        end = next;
        match vma.kind {
            VmaKind::Vsyscall => continue,
            _ if next.0 > USER_END || next < start => {
                return Err(BadField::value("vmas.end", next.0, "an address of user space"));
            }
            VmaKind::File { file, .. } => index.regular("vmas.shmid", file)?,
            VmaKind::Memfd { file, .. } => index.memfd("vmas.shmid", file)?,
            VmaKind::SysV { shared, offset, .. } => {
                let size = index.segments.get(&shared);
                let size =
                    size.ok_or_else(|| BadField::unresolved("vmas.shmid", "segment", shared.0))?;
                let end = offset.checked_add(vma.range.bytes().0);
                let whole = PageCount::covering(ByteCount(*size)).bytes().0;
                if end.is_none_or(|end| end > whole) || offset > start.0 {
                    return Err(BadField::value("vmas.pgoff", offset, "a place in the segment"));
                }
            }
            VmaKind::Anon | VmaKind::Huge(_) | VmaKind::Vdso | VmaKind::Vvar => {}
        }
    }
    Ok(())
}

fn check_timers(living: &Living) -> Result<(), BadField> {
    let timers = &living.posix_timers;
    unique(timers.iter().map(|timer| timer.id))
        .map_err(|(_, id)| BadField::twice("tc.timers.posix.it_id", "timer", id))?;
    let threads: HashSet<TaskId> = living.threads.iter().map(|thread| thread.id).collect();
    match timers.iter().filter_map(|timer| timer.target()).find(|id| !threads.contains(id)) {
        Some(id) => Err(BadField::unresolved("tc.timers.posix.notify_thread_id", "thread", id.0)),
        None => Ok(()),
    }
}

fn check_tables(checkpoint: &Checkpoint, index: &Index<'_>) -> Result<(), BadImage> {
    // An epoll instance in several tables watches descriptors of one of them.
    let mut unseen: HashMap<FileId, Option<u32>> = HashMap::new();
    for table in &checkpoint.fd_tables {
        let at = |number: usize| {
            move |lie: BadField| lie.at(ImageKind::FdInfo.name(table.id.0), number + 1)
        };
        for (number, fd) in table.fds.iter().enumerate() {
            if !index.files.contains_key(&fd.file) {
                return Err(at(number)(BadField::unresolved("id", "file", fd.file.0)));
            }
            if number > 0 && table.fds[number - 1].number >= fd.number {
                return Err(at(number)(BadField::twice("fd", "descriptor", fd.number)));
            }
        }
        for fd in &table.fds {
            if let Some(FileKind::Epoll { targets }) = index.files.get(&fd.file).map(|f| &f.kind) {
                let there = |number: u32| {
                    table.fds.binary_search_by_key(&number, |fd: &Fd| fd.number).is_ok()
                };
                let gone = targets.iter().map(|target| target.fd).find(|number| !there(*number));
                let before = unseen.entry(fd.file).or_insert(gone);
                *before = before.and(gone);
            }
        }
    }
    match unseen.into_iter().find_map(|(file, gone)| Some((file, gone?))) {
        Some((file, gone)) => {
            let number = checkpoint.files.iter().position(|it| it.id == file).unwrap_or(0);
            Err(at(ImageKind::Files, number)(BadField::unresolved("epfd.tfd", "descriptor", gone)))
        }
        None => Ok(()),
    }
}

fn check_locks(checkpoint: &Checkpoint) -> Result<(), BadImage> {
    for (number, lock) in checkpoint.locks.iter().enumerate() {
        let at = at(ImageKind::FileLocks, number);
        let task = checkpoint.tasks.iter().find(|task| task.id == lock.task);
        let Some(living) = task.and_then(Task::living) else {
            return Err(at(BadField::unresolved("pid", "living process", lock.task.0)));
        };
        let table = checkpoint.fd_tables.iter().find(|table| table.id == living.fds);
        if !table.is_some_and(|table| table.fds.iter().any(|fd| fd.number == lock.fd)) {
            return Err(at(BadField::unresolved("fd", "descriptor of its process", lock.fd)));
        }
        // Both are off_t to the kernel, and so is the last byte.
        let end = lock.start.checked_add(lock.len);
        if end.is_none_or(|end| end > i64::MAX.unsigned_abs() + 1) {
            return Err(at(BadField::value("len", lock.len, "a range that ends within a file")));
        }
        if lock.kind == LockKind::Flock && (lock.start, lock.len) != (0, 0) {
            return Err(at(BadField::value("start", lock.start, "a whole file for flock(2)")));
        }
    }
    Ok(())
}
