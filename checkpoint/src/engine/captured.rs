//! A CRIU that somebody else has started, as the engine: `qmig proxy`.

use std::cell::RefCell;

use criu::Scratch;
use criu::stream::Capture;
use image::pagemap::{PagemapReader, Place};
use image::plan::{CRIU, Plan};
use image::{ImageKind, ImageSet, Limits};
use pages::{PageSet, SharedId, SpaceId, TaskId};
use tokio::sync::oneshot;
use tracee::{HostPid, chaos};

use super::stock::{ROOM, Standing, located};
use super::{Engine, Freezing, Still, Taken};
use crate::downtime::Downtime;
use crate::error::SurveyError;
use crate::failure::Cause;
use crate::files::Files;
use crate::rounds::Rounds;
use crate::survey::{SurveyOptions, brief, tree};

/// A dump of somebody else's that waits to begin.
#[derive(Debug)]
pub struct Captured(RefCell<Option<Capture>>);

impl Captured {
    /// This one.
    pub fn new(capture: Capture) -> Self {
        Self(RefCell::new(Some(capture)))
    }
}

impl Engine for Captured {
    fn survey(&self, root: HostPid, _: &SurveyOptions) -> Result<Plan, SurveyError> {
        brief::survey(root, CRIU)
    }

    fn files(&self, _: HostPid) -> Result<Option<Files>, Cause> {
        Ok(None)
    }

    fn pre_copies(&self) -> bool {
        false
    }

    fn freeze<'a>(
        &'a self,
        root: HostPid,
        _: (&'a Plan, Option<&'a Rounds>),
        _: &'a SurveyOptions,
        downtime: &'a mut Downtime,
    ) -> Freezing<'a> {
        Box::pin(async move {
            let capture = self.0.take().ok_or(Cause::LetGo)?;
            let images = Scratch::new(ROOM)?;
            let (tell, told) = oneshot::channel();
            std::thread::spawn(move || drop(tell.send(capture.until_images(images))));
            let dumped = told.await.expect("it always tells")?;
            downtime.began(dumped.stands_since());
            downtime.lap("freeze");
            chaos::point("source:frozen")?;
            let processes = tree::processes(root);
            let mut images = ImageSet::from_directory(&dumped.images().path(), Limits::default())
                .map_err(Cause::CriuImages)?;
            let maps = maps(&mut images)?;
            let spaces = maps.into_iter().map(|space| located(space, &processes));
            let spaces = spaces.collect::<Result<_, Cause>>()?;
            let tasks = image::tasks_of(&images)
                .inspect_err(|beyond| tracing::debug!(%beyond, "only CRIU understands it"))
                .ok();
            let still: Still = Box::new(Standing { dumped, processes });
            downtime.lap("collect");
            Ok((still, Taken { images, tasks, spaces }))
        })
    }
}

/// Takes the maps of pages out of a set: they are told otherwise, as the pages come.
fn maps(images: &mut ImageSet) -> Result<Vec<(SpaceId, PageSet)>, Cause> {
    let space = |name: &str| match ImageKind::of_name(name)? {
        (ImageKind::Pagemap, number) => Some(SpaceId::Process(TaskId(number))),
        (ImageKind::PagemapShared, number) => Some(SpaceId::Shared(SharedId(number))),
        _ => None,
    };
    let named = images.iter().filter_map(|(name, _)| Some((name.to_owned(), space(name)?)));
    let named: Vec<_> = named.collect();
    let mut maps = Vec::new();
    for (name, space) in named {
        let bytes = images.take(&name).unwrap_or_default();
        let runs = PagemapReader::open(&name, &*bytes).and_then(PagemapReader::runs);
        let runs = runs.map_err(|bad| Cause::CriuImages(bad.into()))?;
        if runs.iter().any(|run| run.place != Place::Here) {
            return Err(Cause::Elsewhere(name));
        }
        maps.push((space, runs.iter().map(|run| run.range).collect()));
    }
    Ok(maps)
}
