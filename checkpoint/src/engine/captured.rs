//! A CRIU that somebody else has started, as the engine: `qmig proxy`.

use std::cell::RefCell;

use criu::Scratch;
use criu::stream::Capture;
use image::plan::{CRIU, Plan};
use tracee::HostPid;

use super::standing::{self, ROOM};
use super::{Engine, Freezing, Still};
use crate::downtime::Downtime;
use crate::error::SurveyError;
use crate::failure::Cause;
use crate::files::Files;
use crate::rounds::Rounds;
use crate::survey::{SurveyOptions, brief};

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
            let dump = move || capture.until_images(images);
            let (still, taken) = standing::stand(root, dump, downtime).await?;
            Ok((Box::new(still) as Still, taken))
        })
    }
}
