//! qmig's own engine.

use std::collections::HashMap;

use image::plan::{Plan, Refusal};
use image::state::Checkpoint;
use pages::{PageSet, SpaceId};
use tracee::Keeper;
use tracee::host::Urgency;
use transport::wire::SpaceTotal;

use super::{Arrived, Engine, Hollow, Ready, Shell, Staged, Step};
use crate::build::{self, Built, Roaming, Running, Sink};
use crate::check;
use crate::error::{Error, Result};
use crate::failure::Cause;
use crate::faults::Faults;
use crate::files::Files;
use crate::skeleton::{BuildOptions, Skeleton};

/// qmig's own engine. It works on the thread that drives, because ptrace(2) obeys only the tracer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native {
    /// How the tree is to be made.
    pub options: BuildOptions,
}

struct Skeletal {
    built: Built,
    checkpoint: Checkpoint,
}

impl Engine for Native {
    fn check(&self, plan: &Plan) -> Result<(), Vec<Refusal>> {
        check::check(plan, self.options)
    }

    fn grows(&self) -> Option<BuildOptions> {
        Some(self.options)
    }

    fn builds_early(&self) -> bool {
        false
    }

    fn files(&self, _: &Plan) -> Result<Option<Files>, Cause> {
        Ok(None)
    }

    fn build(&self, arrived: Arrived, spaces: &[SpaceTotal]) -> Result<Hollow, Cause> {
        let Arrived { images, early, trunk, .. } = arrived;
        let _urgency = Urgency::raise();
        let (mut built, checkpoint) = match trunk {
            Some(trunk) => trunk.into_built()?,
            None => {
                let checkpoint = Checkpoint::from_images(&images)?;
                if let Some(early) = early {
                    let built = early.into_built(&checkpoint, self.options)?;
                    return Ok(Box::new(Skeletal { built, checkpoint }));
                }
                (Skeleton::create(&checkpoint, self.options)?.build(&checkpoint)?, checkpoint)
            }
        };
        for space in spaces {
            built.expect(space.space, space.sent, &checkpoint)?;
        }
        Ok(Box::new(Skeletal { built, checkpoint }))
    }
}

impl Shell for Skeletal {
    fn roam(&self) -> Result<Option<Roaming>> {
        self.built.roam().map(Some)
    }

    fn sink(&self, space: SpaceId) -> Result<Sink> {
        self.built.sink(space)
    }

    fn failure(&self) -> Option<Cause> {
        None
    }

    fn finish(
        self: Box<Self>,
        owed: HashMap<SpaceId, PageSet>,
        keeper: Option<Keeper>,
    ) -> Step<(Ready, Option<Faults>)> {
        Box::pin(async move {
            let _urgency = Urgency::raise();
            let Self { mut built, checkpoint } = *self;
            let mut faults = None;
            if let Some(keeper) = keeper.filter(|_| !owed.is_empty()) {
                let openings = built.wait_for(&owed, &checkpoint, &keeper)?;
                faults = Some(Faults::watch(openings, keeper).map_err(Error::from)?);
            }
            let ready: Ready = Box::new(built.finish(&checkpoint)?);
            Ok((ready, faults))
        })
    }
}

impl Staged for build::Ready {
    fn run(self: Box<Self>) -> Step<Running> {
        Box::pin(async move { Ok(build::Ready::run(*self)?) })
    }
}
