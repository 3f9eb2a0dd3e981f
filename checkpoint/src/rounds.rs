//! Rounds of pre-copy: which pages to send while the program runs, and which are left when it does
//! not any more.
//!
//! Private anonymous memory takes part, which is what programs are made of, what private mappings of
//! files hold of their own, and shared memory (`objects`).
//!
//! The pages of a round are told and protected first and read then ([`tracee::dirty`]); a page that
//! changes while it is read is told again. For each process is kept: `sent`, what the destination has
//! a version of; `changed`, what was told and not sent since; `room`, where there is memory; and
//! `made`, where the destination has it, which is what it was told with the last round. What is sent
//! lies always within `made`, and leaving it means being forgotten, when a round tells: then the
//! destination takes that memory away. Not before: memory that went after the last round, and came
//! back before the end, is still there with what was sent into it. Pages of files are put `aside` over
//! there and never forgotten: whatever maps a file at their place in the end has them.

mod space;

use std::time::{Duration, Instant};

use image::kept::{Extent, beside, kept};
use image::outline::{Outline, SpaceOutline};
use image::state::{Checkpoint, FileKind, Mm};
use pages::{PageCount, PageSet, SpaceId, TaskId};
use tracee::{Held, HostPid, Tracked, Tracker, Wanted};
use transport::wire::Features;

use crate::collect::{Advised, Collected, PageSource, SpacePages, Waits};
use crate::failure::Cause;
use crate::heritage::{self, Found, Member};
use crate::objects::Objects;
use crate::survey::open::is_direct;
use crate::survey::tree;
use space::Space;

/// The memory of a tree, watched while it runs. Dropped, nothing of the watching stays.
pub struct Rounds {
    tracker: Tracker,
    early: Checkpoint,
    waits: Waits,
    extent: Extent,
    files: bool,
    spaces: Vec<Space>,
    objects: Objects,
    /// Pages of all rounds.
    sent: PageCount,
    /// What takes long to read before a freeze, and when that was.
    ready: Option<(Advised, Instant)>,
}

/// How long what was read ahead of a freeze is good: the flags of a mapping change seldom, but what a
/// freeze finds should not be of long ago.
const READY_FOR: Duration = Duration::from_secs(1);

/// What a look has told.
pub(crate) struct Look {
    /// Pages that changed and are not among those that no round has had yet.
    pub(crate) dirty: PageCount,
    /// Those, and the ones that no round has had.
    pub(crate) left: PageCount,
}

impl Rounds {
    /// Begins to watch a tree that stands still, and of which `early` was read at this moment. What of
    /// it takes part, the `features` tell that both ends have.
    pub(crate) fn begin(
        held: &mut Held,
        early: Collected,
        features: Features,
    ) -> tracee::Result<Self> {
        let shared = features.contains(Features::SHARED_ROUNDS);
        let whole = features.contains(Features::WHOLE_ROUNDS);
        let extent = if whole { Extent::Whole } else { Extent::Anonymous };
        let root = held.processes().first().map_or(HostPid(0), |process| process.number);
        let mut tracker = Tracker::of(root)?;
        for process in held.processes() {
            tracker.add(Tracked::arm(process.leader())?);
        }
        let spaces = early.spaces.iter().filter_map(|space| match (space.space, &space.source) {
            (SpaceId::Process(task), PageSource::Process(pid)) => Some(Space::new(task, *pid)),
            _ => None,
        });
        let spaces: Vec<Space> = spaces.collect();
        let host = |task| spaces.iter().find(|it| it.task == task).map(|it| it.pid);
        let waits = Waits::of(held, &early.checkpoint, host);
        let memory = early.spaces.into_iter().filter(|_| shared).collect();
        let objects =
            Objects::of(memory, (&early.checkpoint.shared, &early.checkpoint.ghosts), extent);
        let (early, sent) = (early.checkpoint, PageCount(0));
        let files = features.contains(Features::FILE_ROUNDS);
        let ready = None;
        Ok(Self { tracker, spaces, objects, waits, extent, files, early, sent, ready })
    }

    /// What the tree was when it began.
    pub(crate) fn early(&self) -> &Checkpoint {
        &self.early
    }

    /// True if files of memory take part.
    pub(crate) fn with_files(&self) -> bool {
        self.files
    }

    /// The waits it was in then.
    pub(crate) fn waits(&self) -> &Waits {
        &self.waits
    }

    /// Pages that were sent in rounds.
    pub(crate) fn sent(&self) -> PageCount {
        self.sent
    }

    /// Reads what takes long to read of much memory, and must be known of a tree that stands still. False
    /// if there was nothing.
    pub(crate) fn get_ready(&mut self) -> bool {
        let advised = Advised::sample(&tree::processes(self.tracker.root()));
        let much = !advised.is_empty();
        self.ready = Some((advised, Instant::now()));
        much
    }

    /// True if it may be stopped now.
    pub(crate) fn is_ready(&self) -> bool {
        self.advised().is_some()
    }

    /// What was read, if that was not long ago.
    pub(crate) fn advised(&self) -> Option<&Advised> {
        let good = self.ready.as_ref().filter(|(_, read)| read.elapsed() < READY_FOR);
        good.map(|(advised, _)| advised)
    }

    /// Looks what has changed since the last look.
    pub(crate) fn look(&mut self) -> Result<Look, Cause> {
        let before = self.left();
        for space in &mut self.spaces {
            // A process that has ended or become another: the tree is not the same any more, and
            // everything will be sent at the end.
            let Some(tracked) = self.tracker.space(space.pid) else { continue };
            match space.look(tracked, self.extent) {
                Err(error) if error.is_gone() => {}
                looked => looked.map_err(Cause::Watch)?,
            }
        }
        self.objects.look().map_err(Cause::Compare)?;
        let left = self.left();
        Ok(Look { dirty: PageCount(left.0.saturating_sub(before.0)), left })
    }

    /// What processes have in common, after a look and before the first round, if that is worth it.
    /// From here on the destination counts as having it.
    pub(crate) fn common(&mut self) -> Option<Found> {
        if self.extent != Extent::Whole || self.spaces.len() < 2 {
            return None;
        }
        let content: Vec<PageSet> = self
            .spaces
            .iter()
            .map(|space| match mm(&self.early, space.task) {
                Some(mm) => space.to_send(mm),
                None => PageSet::new(),
            })
            .collect();
        let members = self.spaces.iter().zip(&content).filter_map(|(space, content)| {
            let (who, shared) = ((space.task, space.pid), &self.early.shared);
            Some(Member::new(who, mm(&self.early, space.task)?, shared, content))
        });
        let members: Vec<Member<'_>> = members.collect();
        let found = heritage::find(self.early.root().id, &members, true)?;
        for space in &mut self.spaces {
            let Some(pages) = found.heritage.heirs.get(&space.task) else { continue };
            let Some(mm) = mm(&self.early, space.task) else { continue };
            space.born_with(found.heritage.kept_rooms(space.task, mm), pages);
        }
        self.sent = self.sent + found.heritage.pages.count();
        Some(found)
    }

    /// The pages of `found` have been read, and there was no look since it was found. What cannot be
    /// relied on is left to be sent again.
    pub(crate) fn have_read(&mut self, found: &Found) -> Result<(), Cause> {
        let untouched = |(pid, pages): &(HostPid, PageSet)| {
            let mut untouched = PageSet::new();
            if let Some(tracked) = self.tracker.space(*pid) {
                for range in pages.ranges() {
                    match tracked.untouched(*range, Wanted::AnonContent) {
                        Err(error) if error.is_gone() => break,
                        found => untouched.add_all(&found.map_err(Cause::Watch)?),
                    }
                }
            }
            Ok((pages.clone(), untouched))
        };
        let read = found.read.iter().map(untouched).collect::<Result<Vec<_>, Cause>>()?;
        let torn = heritage::torn(&found.heritage, &read);
        let again: PageCount = torn.values().map(PageSet::count).sum();
        let pages = found.heritage.pages.count();
        tracing::debug!(pages = pages.0, again = again.0, "common memory was read");
        for space in &mut self.spaces {
            if let Some(pages) = torn.get(&space.task) {
                space.changed.add_all(pages);
            }
        }
        Ok(())
    }

    /// Pages to be sent now.
    fn left(&self) -> PageCount {
        let private: PageCount = self.spaces.iter().map(|space| space.changed.count()).sum();
        private + self.objects.left()
    }

    /// The next round: where there must be room, and what to send into it, at most `most` pages.
    pub(crate) fn next(&mut self, most: PageCount) -> (Outline, Vec<SpacePages>) {
        let mut outline = Outline::default();
        let mut pages = Vec::new();
        let mut room_for = most.0;
        for space in &mut self.spaces {
            let changed = space.changed.take_first(PageCount(room_for));
            room_for -= changed.count().0;
            space.tell(&changed);
            outline.spaces.push(SpaceOutline {
                task: space.task,
                room: space.made.clone(),
                beside: space.files.clone(),
                stale: PageSet::new(),
                pages: changed.count(),
            });
            self.sent = self.sent + changed.count();
            if !changed.is_empty() {
                pages.push(SpacePages {
                    space: SpaceId::Process(space.task),
                    pages: changed,
                    source: PageSource::Running(space.pid),
                });
            }
        }
        let (shared, objects) = self.objects.next(PageCount(room_for));
        self.sent = self.sent + shared.iter().map(|object| object.pages).sum();
        outline.shared = shared;
        pages.extend(objects);
        (outline, pages)
    }

    /// True if a last round may be without pages.
    pub(crate) fn can_part(&self) -> bool {
        self.extent == Extent::Whole
    }

    /// No round will bring what has changed: a last one, without pages, has what is old of it taken
    /// away while the program still runs, for which it would stand still otherwise.
    pub(crate) fn part(&mut self) -> Outline {
        /// Far below what an outline may have; the rest is taken away at the end.
        const MOST: usize = 500_000;
        let mut left = MOST;
        let (mut outline, _) = self.next(PageCount(0));
        for (space, told) in self.spaces.iter().zip(&mut outline.spaces) {
            let old = space.changed.intersect(&space.sent);
            told.stale = old.ranges().iter().take(left).copied().collect();
            left -= told.stale.ranges().len();
        }
        outline
    }

    fn tracks(&self, pid: HostPid) -> bool {
        self.tracker.space(pid).is_some()
    }

    /// The tree stands still for good: takes out of `collected` the pages that the destination has
    /// already, and puts in those that it has and must not have any more. If it is not the tree it
    /// was, the destination begins anew, and everything is sent: false.
    pub(crate) fn finish(&self, collected: &mut Collected) -> Result<bool, Cause> {
        if !collected.checkpoint.same_tree(&self.early) {
            return Ok(false);
        }
        // Opened since: a device may have written to a page after it was sent, which nobody tells.
        let unseen = collected.checkpoint.files.iter().any(|file| match file.kind {
            FileKind::Regular(_) => is_direct(file.flags),
            _ => false,
        });
        for space in &self.spaces {
            let task = collected.checkpoint.tasks.iter().find(|task| task.id == space.task);
            let living = task.and_then(|task| task.living());
            let left =
                collected.spaces.iter_mut().find(|left| left.space == SpaceId::Process(space.task));
            let (Some(living), Some(left)) = (living, left) else { continue };
            let shared = &collected.checkpoint.shared;
            let there = kept(&space.made, &living.mm, shared, self.extent);
            let mut there = there.intersect(&space.sent);
            there.add_all(&beside(&living.mm).intersect(&space.aside));
            let written = collected.written.get(&space.task);
            let changed = match written.filter(|_| !unseen && self.tracks(space.pid)) {
                Some(written) => {
                    let mut changed = space.changed.clone();
                    changed.add_all(written);
                    changed
                }
                // Anything may have changed; or another program, or an end and a new beginning under the same number.
                None => there.clone(),
            };
            left.pages = remaining(&left.pages, &there, &changed);
        }
        self.objects.finish(collected).map_err(Cause::Compare)?;
        Ok(true)
    }
}

fn mm(tree: &Checkpoint, task: TaskId) -> Option<&Mm> {
    Some(&tree.tasks.iter().find(|it| it.id == task)?.living()?.mm)
}

/// What is left to be sent of `content`, if the destination has versions of the pages `there`, of
/// which those `changed` are old. Pages that have no content any more are among it: they read as
/// zeros here, and must do so over there.
fn remaining(content: &PageSet, there: &PageSet, changed: &PageSet) -> PageSet {
    let mut good = there.intersect(content);
    good.remove_all(changed);
    let mut left = content.clone();
    left.remove_all(&good);
    left.add_all(&tracee::dirty::outdated(there, content));
    left
}

#[cfg(test)]
pub(crate) mod tests {
    use pages::{PageIndex, PageRange};

    use super::*;

    pub(crate) fn set(ranges: &[(u64, u64)]) -> PageSet {
        let range = |(start, count): &(u64, u64)| {
            PageRange::new(PageIndex(*start), PageCount(*count)).expect("a range")
        };
        ranges.iter().map(range).collect()
    }

    #[test]
    fn what_is_left_is_what_changed_what_is_new_and_what_is_gone() {
        let content = set(&[(0, 10), (20, 10), (40, 1)]);
        let there = set(&[(0, 15), (25, 10)]);
        let changed = set(&[(2, 1), (12, 1), (26, 2), (40, 1)]);
        let left = remaining(&content, &there, &changed);
        // 2 changed; 10–14 are gone; 20–24 were never sent; 26–27 changed; 30–34 are gone; 40 is new.
        assert_eq!(left, set(&[(2, 1), (10, 5), (20, 5), (26, 2), (30, 5), (40, 1)]));
    }

    #[test]
    fn nothing_there_leaves_everything() {
        let content = set(&[(3, 4)]);
        assert_eq!(remaining(&content, &PageSet::new(), &content), content);
        assert_eq!(remaining(&content, &content, &PageSet::new()), PageSet::new());
    }
}
