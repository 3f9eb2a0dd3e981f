//! Shared memory: one file in memory for each object, mapped and opened by any number of tasks.
//!
//! It is a memfd, or what the kernel makes for MAP_SHARED and MAP_ANONYMOUS. That one shows as
//! `/dev/zero (deleted)` and cannot be had by open(2): a task of the tree maps it for a moment, and
//! qmig opens it through the task's map_files (proc_pid_map_files(5)).

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use image::kept::same_object;
use image::state::{Checkpoint, HugeSize, SharedMemory};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};
use pages::{ByteCount, PageCount, SharedId};
use tracee::Window;

use super::files::{View, reopen};
use super::paged::Paged;
use super::process::Process;
use super::sysv::Segments;
use crate::error::{BadCheckpoint, During, Error, Result, errno_of};

/// The name CRIU's format gives to anonymous shared memory, and to such of huge pages.
const ANONYMOUS: [&str; 2] = ["/dev/zero", "/anon_hugepage"];

/// True if no open(2) makes it.
fn is_anonymous(object: &SharedMemory) -> bool {
    object.name == ANONYMOUS[usize::from(object.huge.is_some())]
}

/// The objects of shared memory of a tree.
#[derive(Default)]
pub(crate) struct Memfds {
    objects: HashMap<SharedId, (OwnedFd, SharedMemory)>,
    pub(crate) segments: Segments,
    pub(crate) paged: Paged,
}

impl Memfds {
    /// All that a tree has; those of `early` that are among it are there already.
    pub(crate) fn create(
        from: &Checkpoint,
        view: &View,
        mut early: Self,
        maker: &mut Process,
    ) -> Result<Self> {
        let paged = Paged::create(from, view, std::mem::take(&mut early.paged))?;
        let mut all = Self { paged, ..Self::default() };
        let mut missing = Vec::new();
        for object in &from.shared {
            match early.objects.remove(&object.id) {
                Some((made, had)) if same_object(&had, object) => {
                    let made = File::from(made);
                    if let Some(sysv) = object.sysv {
                        all.segments.adopt(&mut early.segments, object, sysv, maker)?;
                    } else if !is_anonymous(object) {
                        describe(&made, object).during("resize shared memory")?;
                    }
                    all.objects.insert(object.id, (made.into(), object.clone()));
                }
                _ => missing.push(object),
            }
        }
        // With it go segments of which the tree has others by now, perhaps with their keys.
        drop(early);
        missing.into_iter().try_for_each(|object| all.make(object, maker))?;
        Ok(all)
    }

    /// One more, empty: an object of shared memory, or a file.
    pub(crate) fn make_of(
        &mut self,
        id: SharedId,
        (from, view): (&Checkpoint, &View),
        maker: &mut Process,
    ) -> Result<()> {
        match from.shared.iter().find(|object| object.id == id) {
            Some(object) => self.make(object, maker),
            None => self.paged.make(id, from, view),
        }
    }

    fn make(&mut self, object: &SharedMemory, maker: &mut Process) -> Result<()> {
        let made = match object.sysv {
            Some(sysv) => self.segments.make(object, sysv, maker)?,
            None if is_anonymous(object) => anonymous(object, maker)?,
            None => create(object).during("make shared memory")?,
        };
        self.objects.insert(object.id, (made, object.clone()));
        Ok(())
    }

    /// True if object `id` has been made.
    pub(crate) fn has(&self, id: SharedId) -> bool {
        self.objects.contains_key(&id) || self.paged.has(id)
    }

    /// Bytes of object `id`.
    pub(crate) fn size(&self, id: SharedId) -> Result<u64> {
        let (_, object) = self.objects.get(&id).ok_or(BadCheckpoint::Shared(id))?;
        Ok(object.size)
    }

    /// A new open description of object `id`.
    pub(crate) fn reopen(&self, id: SharedId, flags: OFlag) -> Result<OwnedFd> {
        let (kept, _) = self.objects.get(&id).ok_or(BadCheckpoint::Shared(id))?;
        reopen(kept, flags).during("open shared memory")
    }

    /// True if the program has sealed the object against writing.
    pub(crate) fn is_write_sealed(&self, id: SharedId) -> bool {
        let write = SealFlag::F_SEAL_WRITE.bits().cast_unsigned();
        self.objects.get(&id).is_some_and(|(_, object)| object.seals & write != 0)
    }

    /// A descriptor to write pages through, and the object's size.
    pub(crate) fn writer(&self, id: SharedId) -> Result<(File, u64)> {
        if let Some(writer) = self.paged.writer(id) {
            return writer.during("duplicate a descriptor");
        }
        let (kept, object) = self.objects.get(&id).ok_or(BadCheckpoint::Shared(id))?;
        let writer = kept.try_clone().during("duplicate a descriptor")?;
        Ok((writer.into(), object.size))
    }

    /// What an object of huge pages is written through; `None` if it is none.
    pub(crate) fn window(&self, id: SharedId) -> Result<Option<Window>> {
        let (file, size) = self.writer(id)?;
        let huge = self.objects.get(&id).is_some_and(|(_, object)| object.huge.is_some());
        let huge = huge || self.paged.is_huge(id);
        let window = (huge && size > 0).then(|| Window::onto(&file, size)).transpose();
        window.map_err(|error| errno_of(&error)).during("map shared memory of huge pages")
    }

    /// Applies the seals, once all pages are there.
    pub(crate) fn seal(&self) -> Result<()> {
        for (memfd, object) in self.objects.values() {
            if object.seals != 0 && !is_anonymous(object) {
                let seals = SealFlag::from_bits_retain(object.seals.cast_signed());
                fcntl(memfd, FcntlArg::F_ADD_SEALS(seals)).during("seal shared memory")?;
            }
        }
        Ok(())
    }

    pub(crate) fn close_all(&mut self) {
        self.objects.clear();
        self.paged = Paged::default();
    }
}

/// Anonymous shared memory, made by a task of the tree.
fn anonymous(object: &SharedMemory, maker: &mut Process) -> Result<OwnedFd> {
    let len = PageCount::covering(ByteCount(object.size)).bytes().0;
    let prot = u64::from((libc::PROT_READ | libc::PROT_WRITE).cast_unsigned());
    let huge = object.huge.map_or(0, HugeSize::map_flags);
    let flags = u64::from((libc::MAP_SHARED | libc::MAP_ANONYMOUS).cast_unsigned() | huge);
    let args = [0, len, prot, flags, u64::MAX, 0];
    let at = maker.call("make shared memory", libc::SYS_mmap, &args)?;
    let link = format!("/proc/{}/map_files/{at:x}-{:x}", maker.host, at.saturating_add(len));
    let opened = open(link.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    maker.call("unmap shared memory", libc::SYS_munmap, &[at, len])?;
    opened.map_err(|errno| Error::Path { act: "open", path: link.into(), errno })
}

fn create(object: &SharedMemory) -> nix::Result<OwnedFd> {
    // F_SEAL_SEAL, which every memfd made without MFD_ALLOW_SEALING has, comes with the others.
    let huge = object.huge.map_or(0, HugeSize::memfd_flags);
    let flags =
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING | MFdFlags::from_bits_retain(huge);
    let name = std::ffi::CString::new(object.name.as_str()).map_err(|_| Errno::EINVAL)?;
    let file = File::from(memfd_create(name.as_c_str(), flags)?);
    describe(&file, object)?;
    Ok(file.into())
}

/// Size, owner and mode.
fn describe(file: &File, object: &SharedMemory) -> nix::Result<()> {
    file.set_len(object.size).map_err(|error| errno_of(&error))?;
    fchown(file, Some(Uid::from_raw(object.uid)), Some(Gid::from_raw(object.gid)))?;
    fchmod(file, Mode::from_bits_truncate(object.mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use nix::sys::stat::fstat;

    use super::*;

    #[test]
    fn size_mode_content_and_seals_come_back() {
        let object = SharedMemory {
            id: SharedId(3),
            name: "journal".into(),
            size: 5000,
            seals: (SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL).bits().cast_unsigned(),
            uid: 0,
            gid: 0,
            mode: 0o600,
            huge: None,
            sysv: None,
        };
        let made = create(&object).expect("a memfd");
        let objects = HashMap::from([(object.id, (made, object))]);
        let memfds = Memfds { objects, ..Memfds::default() };
        let (writer, size) = memfds.writer(SharedId(3)).expect("there");
        assert_eq!(size, 5000);
        writer.write_all_at(b"x", 4999).expect("written");
        memfds.seal().expect("sealed");
        let opened = memfds.reopen(SharedId(3), OFlag::O_RDWR).expect("opened");
        assert_eq!(fcntl(&opened, FcntlArg::F_GET_SEALS), Ok(3));
        let stat = fstat(&opened).expect("a file");
        assert_eq!((stat.st_size, stat.st_mode & 0o7777), (5000, 0o600));
        assert!(File::from(opened).set_len(10).is_err(), "sealed against shrinking");
        assert!(matches!(
            memfds.reopen(SharedId(4), OFlag::O_RDONLY),
            Err(Error::BadCheckpoint(BadCheckpoint::Shared(SharedId(4))))
        ));
    }
}
