//! Post-copy: which pages may follow after the hand-over, and which must be there before.
//!
//! Lazy are pages of private anonymous memory. What userfaultfd(2) cannot make a task wait for goes
//! ahead: private copies of pages of files, memory that is locked, shared objects. Those are also read
//! and written through descriptors and by mappings to come, of which userfaultfd sees nothing; and its
//! event does not tell MADV_DONTNEED, which keeps what is shared, from MADV_REMOVE, which does not
//! (userfaultfd(2), UFFD_EVENT_REMOVE). And what the destination's kernel itself touches before
//! the tree runs, or in its first moment: around every stack pointer, rseq areas, robust lists, the
//! words a thread waits on. Whoever touched such a page while the tree is being built would wait for
//! a page that cannot be asked for yet.

use image::state::{Living, Regs, Task, Thread, VmaFlags, VmaKind};
use nix::libc;
use pages::{PageIndex, PageRange, PageSet, SpaceId, VirtAddr};
use tracee::HostPid;

use crate::collect::{PageSource, SpacePages};

/// Bytes of a poll(2) set that are taken along; a larger one is no server's.
const POLL_SET: u64 = 1 << 20;
/// `struct pollfd`.
const POLLFD: u64 = 8;

/// Pages that follow after the hand-over.
#[derive(Debug)]
pub(crate) struct Owed {
    /// Whose.
    pub(crate) space: SpaceId,
    /// Where they are read.
    pub(crate) process: HostPid,
    /// Which.
    pub(crate) pages: PageSet,
    /// Those that are likely to be wanted first.
    pub(crate) hot: PageSet,
}

/// Takes what may follow out of `spaces`.
pub(crate) fn defer(tasks: &[Task], spaces: &mut [SpacePages]) -> Vec<Owed> {
    let mut all = Vec::new();
    for space in spaces {
        let (SpaceId::Process(id), PageSource::Process(process)) = (space.space, &space.source)
        else {
            continue;
        };
        let task = tasks.iter().find(|task| task.id == id);
        let Some(living) = task.and_then(|task| task.living()) else { continue };
        let mut pages = space.pages.intersect(&waitable(living));
        for touched in living.threads.iter().flat_map(touched) {
            pages.remove(touched);
        }
        space.pages.remove_all(&pages);
        if !pages.is_empty() {
            let hot = pages.intersect(&hot(living));
            all.push(Owed { space: space.space, process: *process, pages, hot });
        }
    }
    all
}

/// Takes what may come after everything else out of `spaces`, for a destination that builds meanwhile.
pub(crate) fn later(tasks: &[Task], spaces: &mut [SpacePages]) -> Vec<SpacePages> {
    let of = |owed: Owed| SpacePages {
        space: owed.space,
        pages: owed.pages,
        source: PageSource::Process(owed.process),
    };
    defer(tasks, spaces).into_iter().map(of).collect()
}

/// Memory whose missing pages a task can be made to wait for.
fn waitable(living: &Living) -> PageSet {
    let vmas = living.mm.vmas.iter().filter(|vma| vma.kind == VmaKind::Anon);
    vmas.filter(|vma| !vma.flags.contains(VmaFlags::LOCKED)).map(|vma| vma.range).collect()
}

/// The heap and the stacks: small beside what a large process has, and in use all the time.
fn hot(living: &Living) -> PageSet {
    let mm = &living.mm;
    let stacks: Vec<PageIndex> =
        living.threads.iter().map(|thread| VirtAddr(thread.regs.sp).page()).collect();
    let heap = mm.start_brk.page();
    let vmas = mm.vmas.iter().map(|vma| vma.range);
    vmas.filter(|range| range.contains(heap) || stacks.iter().any(|at| range.contains(*at)))
        .collect()
}

/// What is touched on a thread's behalf before, or in the moment when, it runs.
fn touched(thread: &Thread) -> impl Iterator<Item = PageRange> {
    let regs = &thread.regs;
    let around = |at: u64, before: u64, after: u64| {
        let start = VirtAddr(at.saturating_sub(before)).page();
        let end = VirtAddr(at.saturating_add(after)).page();
        PageRange::between(start, PageIndex(end.0.saturating_add(1)))
    };
    let arguments = [regs.di, regs.si, regs.dx, regs.r10, regs.r8, regs.r9];
    let arguments = arguments.into_iter().map(move |at| around(at, 0, 256));
    let rseq = thread.rseq.map_or((0, 0), |rseq| (rseq.area.0, u64::from(rseq.size)));
    let list = thread.robust_list.map_or((0, 0), |list| (list.head.0, u64::from(list.len)));
    [
        around(regs.sp, 4096, 4096),
        around(regs.fs_base, 256, 1024),
        around(regs.ip, 0, 16),
        around(rseq.0, 0, rseq.1),
        around(list.0, 0, list.1),
        around(thread.clear_child_tid.0, 0, 4),
        around(regs.di, 0, poll_set(regs)),
    ]
    .into_iter()
    .chain(arguments)
    .flatten()
}

/// How many bytes a poll(2) that will be continued reads.
fn poll_set(regs: &Regs) -> u64 {
    if regs.ax == libc::SYS_poll.cast_unsigned() {
        regs.si.saturating_mul(POLLFD).min(POLL_SET)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_takes_its_whole_set_along() {
        let poll = Regs { ax: 7, si: 1000, ..Regs::default() };
        assert_eq!(poll_set(&poll), 8000);
        assert_eq!(poll_set(&Regs { ax: 7, si: u64::MAX, ..Regs::default() }), POLL_SET);
        assert_eq!(poll_set(&Regs { ax: 0, ..poll }), 0);
    }
}
