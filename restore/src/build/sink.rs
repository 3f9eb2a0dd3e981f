//! Where arriving pages go, until the tree runs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use image::state::Mm;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use pages::{PAGE_SIZE, PageCount, PageIndex, PageRange, PageSet, SpaceId, VirtAddr};
use tracee::{HostPid, Memory, Window};

use super::aside::Aside;
use super::fresh::{Fresh, slice};
use super::memfds::Memfds;
use super::mm;
use crate::engine::{Late, PagesImage};
use crate::error::{Error, Result, errno_of};

/// Zeros are written in pieces of this many pages.
const ZEROS: u32 = 64;

/// What is known of a space before anybody writes to it.
pub(crate) enum Place {
    /// An address space: pages with content of their own, and pages that are the kernel's.
    Process { host: HostPid, own: PageSet, kernels: PageSet, fresh: Option<Arc<Fresh>> },
    /// An address space without its mappings of files, whose pages are put aside.
    Growing { host: HostPid, room: PageSet, beside: PageSet, aside: Arc<Aside> },
    /// A shared object.
    Shared,
}

impl Place {
    pub(crate) fn of_process(host: HostPid, mm: &Mm) -> Self {
        let (own, kernels) = mm::content(mm);
        Self::Process { host, own, kernels, fresh: None }
    }

    pub(crate) fn open(&self, space: SpaceId, memfds: &Memfds) -> Result<Sink> {
        let to = match (self, space) {
            (Self::Process { host, own, kernels, fresh }, _) => To::Process {
                memory: Memory::open(*host)?,
                own: own.clone(),
                kernels: kernels.clone(),
                fresh: fresh.clone(),
            },
            (Self::Growing { host, room, beside, aside }, _) => {
                let mut own = room.clone();
                own.add_all(beside);
                let (beside, aside) = (beside.clone(), Arc::clone(aside));
                To::Growing(Growing { memory: Memory::open(*host)?, own, beside, aside })
            }
            (Self::Shared, SpaceId::Shared(id)) => {
                let (file, size) = memfds.writer(id)?;
                To::Shared { file, size, window: memfds.window(id)? }
            }
            (Self::Shared, SpaceId::Process(_)) => return Err(super::unknown(space)),
        };
        Ok(Sink { space, to })
    }
}

/// The pages of one space, to be written from any thread while the tree stands still.
///
/// Pages may be written again and again; the last one counts. Dropped with the tree, or before.
pub struct Sink {
    space: SpaceId,
    to: To,
}

/// Where pages go while the program runs elsewhere.
struct Growing {
    memory: Memory,
    /// Where there may be pages.
    own: PageSet,
    /// Those of them that are put aside.
    beside: PageSet,
    aside: Arc<Aside>,
}

enum To {
    Process {
        memory: Memory,
        own: PageSet,
        kernels: PageSet,
        fresh: Option<Arc<Fresh>>,
    },
    Growing(Growing),
    Shared {
        file: File,
        size: u64,
        /// What is written through instead, if it is of huge pages.
        window: Option<Window>,
    },
    /// An image that somebody else will read.
    Image(PagesImage),
    /// The same, or the tree that somebody else has built.
    Late(Late),
}

impl Sink {
    /// Pages that go into an image.
    pub(crate) fn of_image(space: SpaceId, image: PagesImage) -> Self {
        Self { space, to: To::Image(image) }
    }

    /// Pages that go into an image or, if they come later, into the tree.
    pub(crate) fn of_late(space: SpaceId, late: Late) -> Self {
        Self { space, to: To::Late(late) }
    }

    /// Whose pages.
    pub fn space(&self) -> SpaceId {
        self.space
    }

    /// Writes the pages of `range`; `bytes` must be exactly as long. Pages of the vdso, which this
    /// kernel has put there itself, are passed over.
    pub fn write(&self, range: PageRange, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 != range.bytes().0 {
            return Err(self.failed(range, Errno::EMSGSIZE));
        }
        match &self.to {
            To::Process { memory, fresh, .. } => match (self.is_own(range)?, fresh) {
                (false, _) => Ok(()),
                (true, Some(fresh)) => self.written(range, fresh.write(memory, range, Some(bytes))),
                (true, None) => self.written(range, memory.write(range.start_addr(), bytes)),
            },
            To::Growing(to) => self.grow(to, range, Some(bytes)),
            To::Shared { file, size, window } => {
                let (offset, len) = self.within(range, *size)?;
                let bytes = &bytes[..len];
                let written = match window {
                    Some(window) => window.write(offset, bytes),
                    None => file.write_all_at(bytes, offset),
                };
                written.map_err(|error| self.failed(range, errno_of(&error)))
            }
            To::Late(late) => {
                late.write(range, Some(bytes)).map_err(|error| self.failed(range, errno_of(&error)))
            }
            To::Image(image) => {
                image.write(range, bytes).map_err(|error| self.failed(range, errno_of(&error)))
            }
        }
    }

    /// Makes the pages of `range` zero.
    pub fn zero(&self, range: PageRange) -> Result<()> {
        match &self.to {
            To::Process { memory, fresh, .. } => {
                if !self.is_own(range)? {
                    return Ok(());
                }
                if let Some(fresh) = fresh {
                    return self.written(range, fresh.write(memory, range, None));
                }
                self.written(range, zeros(memory, range))
            }
            To::Growing(to) => self.grow(to, range, None),
            To::Shared { file, size, .. } => {
                let (offset, len) = self.within(range, *size)?;
                let hole =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let [offset, len] = [offset, len as u64].map(|n| i64::try_from(n).unwrap_or(0));
                fallocate(file, hole, offset, len).map_err(|errno| self.failed(range, errno))
            }
            To::Late(late) => {
                late.write(range, None).map_err(|error| self.failed(range, errno_of(&error)))
            }
            To::Image(image) => {
                image.zero(range).map_err(|error| self.failed(range, errno_of(&error)))
            }
        }
    }

    /// Writes pages where there is room, and puts the others aside.
    fn grow(&self, to: &Growing, range: PageRange, content: Option<&[u8]>) -> Result<()> {
        if !within(&to.own, range) {
            return Err(Error::OutsideSpace { space: self.space, range });
        }
        let mut done = PageCount(0);
        while done < range.count() {
            let (part, beside) = range.part(done, to.beside.ranges());
            let bytes = content.map(|content| slice(content, done, part.count()));
            done = done + part.count();
            match bytes {
                _ if beside => {
                    let kept = to.aside.write(part, bytes);
                    kept.map_err(|error| self.failed(part, errno_of(&error)))?;
                }
                Some(bytes) => self.written(part, to.memory.write(part.start_addr(), bytes))?,
                None => self.written(part, zeros(&to.memory, part))?,
            }
        }
        Ok(())
    }

    /// True if all of `range` is content; false if all of it is the kernel's.
    fn is_own(&self, range: PageRange) -> Result<bool> {
        let To::Process { own, kernels, .. } = &self.to else { return Ok(true) };
        if within(own, range) {
            Ok(true)
        } else if within(kernels, range) {
            Ok(false)
        } else {
            Err(Error::OutsideSpace { space: self.space, range })
        }
    }

    /// Offset and length of `range` in a shared object, whose last page may be a part.
    fn within(&self, range: PageRange, size: u64) -> Result<(u64, usize)> {
        let VirtAddr(offset) = range.start_addr();
        let outside = || Error::OutsideSpace { space: self.space, range };
        let last = PageIndex(PageCount::covering(pages::ByteCount(size)).0);
        if range.end() > last {
            return Err(outside());
        }
        let len = range.bytes().0.min(size - offset);
        Ok((offset, usize::try_from(len).map_err(|_| outside())?))
    }

    fn written(&self, range: PageRange, outcome: tracee::Result<()>) -> Result<()> {
        outcome.map_err(|error| match error {
            tracee::Error::Memory { source, .. } => self.failed(range, errno_of(&source)),
            other => other.into(),
        })
    }

    fn failed(&self, range: PageRange, errno: Errno) -> Error {
        Error::WritePages { space: self.space, range, errno }
    }
}

fn zeros(memory: &Memory, range: PageRange) -> tracee::Result<()> {
    let zeros = [0; ZEROS as usize * PAGE_SIZE];
    range.pieces(PageCount(ZEROS.into())).try_for_each(|piece| {
        let len = usize::try_from(piece.bytes().0).unwrap_or(0);
        memory.write(piece.start_addr(), &zeros[..len])
    })
}

/// True if one run of `set` has all of `range`.
fn within(set: &PageSet, range: PageRange) -> bool {
    let after = set.ranges().partition_point(|have| have.end() <= range.start());
    set.ranges().get(after).is_some_and(|have| have.covers(range))
}
