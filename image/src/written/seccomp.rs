//! `seccomp.img`: the filters of all threads. A thread names its oldest; each names the next newer one.
//! Where all threads of a process have the same, the leader alone names it, and its filters say so.

use std::sync::Arc;

use super::Reader;
use crate::error::{BadField, BadImage};
use crate::kind::ImageKind;
use crate::messages::{SeccompEntry, SeccompFilter, SeccompMode, ThreadCoreEntry};
use crate::state::{Checkpoint, Filter, Seccomp, Thread};

/// SECCOMP_FILTER_FLAG_TSYNC: of every thread of the process.
const OF_ALL: u32 = 1;
/// SECCOMP_FILTER_FLAG_LOG.
const LOG: u32 = 2;

/// Filters as they are written, each chain once.
#[derive(Default)]
pub(super) struct Chains {
    entry: SeccompEntry,
    known: Vec<(Arc<Vec<Filter>>, bool, u32)>,
}

impl Chains {
    /// Every chain of a checkpoint.
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        let mut chains = Self::default();
        for living in checkpoint.tasks.iter().filter_map(|task| task.living()) {
            let shared = all_alike(&living.threads);
            let count = if shared { 1 } else { living.threads.len() };
            living
                .threads
                .iter()
                .take(count)
                .for_each(|thread| chains.add(&thread.seccomp, shared));
        }
        chains
    }

    fn add(&mut self, seccomp: &Seccomp, shared: bool) {
        let Seccomp::Filters(filters) = seccomp else { return };
        if self.find(filters, shared).is_some() {
            return;
        }
        let first = self.entry.seccomp_filters.len();
        self.known.push((Arc::clone(filters), shared, number(first)));
        for (at, filter) in filters.iter().enumerate() {
            let newer = (at + 1 < filters.len()).then_some(number(first + at + 1));
            let flags = if shared { OF_ALL } else { 0 } | if filter.log { LOG } else { 0 };
            let flags = (flags != 0).then_some(flags);
            let written = SeccompFilter { filter: filter.program.clone(), prev: newer, flags };
            self.entry.seccomp_filters.push(written);
        }
    }

    fn find(&self, filters: &Arc<Vec<Filter>>, shared: bool) -> Option<u32> {
        let same = |(known, how, _): &&(Arc<Vec<Filter>>, bool, u32)| {
            *how == shared && (Arc::ptr_eq(known, filters) || known == filters)
        };
        self.known.iter().find(same).map(|(.., first)| *first)
    }

    /// What the thread at `at` among those of its process says of it.
    pub(super) fn say(&self, threads: &[Thread], at: usize, core: &mut ThreadCoreEntry) {
        let shared = all_alike(threads);
        core.seccomp_mode = Some(SeccompMode::Disabled as i32);
        match &threads[at].seccomp {
            Seccomp::Strict => core.seccomp_mode = Some(SeccompMode::Strict as i32),
            Seccomp::Filters(filters) if at == 0 || !shared => {
                core.seccomp_mode = Some(SeccompMode::Filter as i32);
                core.seccomp_filter = self.find(filters, shared);
            }
            Seccomp::Filters(_) | Seccomp::Off => {}
        }
    }

    /// The whole image.
    pub(super) fn entry(&self) -> &SeccompEntry {
        &self.entry
    }
}

fn all_alike(threads: &[Thread]) -> bool {
    threads.len() > 1 && threads.iter().all(|thread| thread.seccomp == threads[0].seccomp)
}

fn number(at: usize) -> u32 {
    u32::try_from(at).expect("fewer filters than bytes")
}

/// The filters of an image.
pub(super) fn read(reader: &Reader<'_>) -> Result<SeccompEntry, BadImage> {
    match reader.images.get(&ImageKind::Seccomp.name(0)) {
        Some(_) => reader.one(ImageKind::Seccomp, 0),
        None => Ok(SeccompEntry::default()),
    }
}

/// The rules of a thread, and whether its whole process has them.
pub(super) fn of_thread(
    core: &ThreadCoreEntry,
    all: &SeccompEntry,
) -> Result<(Seccomp, bool), BadField> {
    let mode = core.seccomp_mode.unwrap_or(0);
    match mode {
        _ if mode == SeccompMode::Disabled as i32 => Ok((Seccomp::Off, false)),
        _ if mode == SeccompMode::Strict as i32 => Ok((Seccomp::Strict, false)),
        _ if mode == SeccompMode::Filter as i32 => chain(core.seccomp_filter, all),
        _ => Err(BadField::value("thread_core.seccomp_mode", mode.unsigned_abs(), "0, 1 or 2")),
    }
}

fn chain(first: Option<u32>, all: &SeccompEntry) -> Result<(Seccomp, bool), BadField> {
    const FIELD: &str = "seccomp_filters";
    let mut next = first;
    let (mut filters, mut shared) = (Vec::new(), false);
    while let Some(at) = next {
        let written = all.seccomp_filters.get(usize::try_from(at).unwrap_or(usize::MAX));
        let written = written.ok_or_else(|| BadField::value(FIELD, at, "a filter of the image"))?;
        let length = written.filter.len();
        if !(Filter::INSTRUCTION..=Filter::LONGEST).contains(&length)
            || !length.is_multiple_of(Filter::INSTRUCTION)
        {
            return Err(BadField::count(FIELD, length, "1 to 4096 instructions of 8 bytes"));
        }
        // Also where a chain ends in itself.
        if filters.len() == Seccomp::MOST_FILTERS {
            return Err(BadField::count(FIELD, filters.len() + 1, "at most 8192 filters"));
        }
        let flags = written.flags.unwrap_or(0);
        shared |= flags & OF_ALL != 0;
        filters.push(Filter { program: written.filter.clone(), log: flags & LOG != 0 });
        next = written.prev;
    }
    if filters.is_empty() {
        return Err(BadField::missing("thread_core.seccomp_filter"));
    }
    Ok((Seccomp::Filters(Arc::new(filters)), shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(byte: u8, prev: Option<u32>, flags: Option<u32>) -> SeccompFilter {
        SeccompFilter { filter: vec![byte; 8], prev, flags }
    }

    #[test]
    fn chains_are_followed_from_the_oldest_on_and_not_for_ever() {
        let core = |first| ThreadCoreEntry {
            seccomp_mode: Some(2),
            seccomp_filter: first,
            ..ThreadCoreEntry::default()
        };
        let all = SeccompEntry {
            seccomp_filters: vec![
                filter(1, Some(1), Some(1)),
                filter(2, None, Some(3)),
                filter(3, Some(2), None),
            ],
        };
        let (seccomp, shared) = of_thread(&core(Some(0)), &all).expect("a chain");
        let Seccomp::Filters(filters) = seccomp else { panic!("filters: {seccomp:?}") };
        let seen: Vec<_> = filters.iter().map(|one| (one.program[0], one.log)).collect();
        assert_eq!((seen, shared), (vec![(1, false), (2, true)], true));
        assert!(of_thread(&core(Some(2)), &all).is_err(), "it ends in itself");
        assert!(of_thread(&core(Some(7)), &all).is_err(), "it is not there");
        assert!(of_thread(&core(None), &all).is_err(), "it has none");
        let odd = SeccompEntry {
            seccomp_filters: vec![SeccompFilter { filter: vec![1; 7], ..filter(1, None, None) }],
        };
        assert!(of_thread(&core(Some(0)), &odd).is_err(), "no whole instruction");
    }
}
