//! qmig's own engine: ptrace(2), and nobody else.

use image::NamespaceIds;
use image::plan::Plan;
use tracee::host::Urgency;
use tracee::net::HostAddress;
use tracee::{Held, HostPid, chaos};

use super::{Engine, Freezing, Still, Taken};
use crate::collect::{self, Clockwork, CollectOptions, Collected, Doors, MemoryLook, Moment};
use crate::doomed::{Standing, Ties};
use crate::downtime::Downtime;
use crate::error::{CollectError, SurveyError};
use crate::failure::Cause;
use crate::files::Files;
use crate::rounds::Rounds;
use crate::survey::{self, SurveyOptions};

/// How long a tree may take to stand still: a task in uninterruptible sleep cannot be stopped.
const FREEZE_DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);

/// qmig's own engine. It works on the thread that drives, because ptrace(2) obeys only the tracer.
#[derive(Clone, Debug, Default)]
pub struct Native {
    /// Addresses of this host that go where the tree goes.
    pub release: Vec<HostAddress>,
}

impl Engine for Native {
    fn survey(&self, root: HostPid, options: &SurveyOptions) -> Result<Plan, SurveyError> {
        survey::survey(root, options)
    }

    fn files(&self, _: HostPid) -> Result<Option<Files>, Cause> {
        Ok(None)
    }

    fn pre_copies(&self) -> bool {
        true
    }

    fn freeze<'a>(
        &'a self,
        root: HostPid,
        (plan, rounds): (&'a Plan, Option<&'a Rounds>),
        options: &'a SurveyOptions,
        downtime: &'a mut Downtime,
    ) -> Freezing<'a> {
        Box::pin(async move {
            let _urgency = Urgency::raise();
            let look = match rounds {
                Some(rounds) => (Some(rounds), MemoryLook::Written, rounds.with_files()),
                None => (None, MemoryLook::Content, false),
            };
            let (held, mut collected) = stop_and_read(root, plan, options, look, downtime)?;
            let mut anew = true;
            if let Some(rounds) = rounds {
                anew = !rounds.finish(&mut collected)?;
                downtime.lap("last look");
            }
            let Collected { checkpoint, spaces, ties, .. } = collected;
            let images = checkpoint.to_images(&NamespaceIds::default());
            // What the destination has of it was born there already.
            let shared = Some(checkpoint.shared).filter(|_| anew);
            let tasks = Some(checkpoint.tasks);
            let ties = Ties { addresses: self.release.clone(), ..ties };
            let still: Still = Box::new(Standing { held, ties });
            Ok((still, Taken { images, tasks, shared, spaces }))
        })
    }
}

/// What a freeze is: nobody runs between its two lines. If it was stopped before to watch what it writes,
/// `before` knows its waits then. Whether files of memory are `paged`, both ends have agreed.
pub(crate) fn stop_and_read(
    root: HostPid,
    plan: &Plan,
    survey: &SurveyOptions,
    (before, memory, paged): (Option<&Rounds>, MemoryLook, bool),
    downtime: &mut Downtime,
) -> Result<(Held, Collected), Cause> {
    let doors = Doors::shut(plan, survey.tcp).map_err(CollectError::from)?;
    let clockwork = Clockwork::sample_beside(root, before.and_then(Rounds::advised).cloned());
    let clockwork = match before {
        Some(rounds) => clockwork.again(rounds.waits()),
        None => clockwork,
    };
    downtime.begin();
    let mut held = Held::freeze(root, FREEZE_DEADLINE).map_err(Cause::Freeze)?;
    let frozen = Moment::now();
    downtime.lap("freeze");
    chaos::point("source:frozen")?;
    let options = CollectOptions {
        tcp: survey.tcp,
        ghost_limit: survey.ghost_limit,
        clockwork: &clockwork,
        frozen,
        memory,
        paged,
    };
    let mut collected = collect::collect(&mut held, plan, &options)?;
    collected.ties.doors = doors;
    downtime.lap("collect");
    Ok((held, collected))
}
