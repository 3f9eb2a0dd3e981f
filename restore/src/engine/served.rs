//! A CRIU that somebody else starts, as the engine: `qmig cache`.

use std::cell::RefCell;

use criu::stream::Serve;
use image::plan::{CONTAINER, Plan, Refusal};
use transport::wire::SpaceTotal;

use super::stock::{By, Gathering};
use super::{Arrived, Engine, Hollow};
use crate::check;
use crate::failure::Cause;
use crate::files::Files;
use crate::skeleton::BuildOptions;

/// A restore of somebody else's that is awaited.
#[derive(Debug)]
pub struct Served(RefCell<Option<Serve>>);

impl Served {
    /// This one. It serves one tree.
    pub fn new(serve: Serve) -> Self {
        Self(RefCell::new(Some(serve)))
    }
}

impl Engine for Served {
    fn check(&self, plan: &Plan) -> Result<(), Vec<Refusal>> {
        if plan.needs.iter().any(|need| need == CONTAINER) {
            let reason = "its runtime must restore it";
            let hint = "start `qmig restore --runc ID --bundle DIR` here";
            return Err(vec![Refusal::new(CONTAINER, check::HERE, reason).hint(hint)]);
        }
        check::check_the_host(plan)
    }

    fn grows(&self) -> Option<BuildOptions> {
        None
    }

    fn builds_early(&self) -> bool {
        false
    }

    fn files(&self, _: &Plan) -> Result<Option<Files>, Cause> {
        Ok(None)
    }

    fn build(&self, arrived: Arrived, spaces: &[SpaceTotal]) -> Result<Hollow, Cause> {
        let serve = self.0.take().ok_or(Cause::NotEntrusted("a tree has been served already"))?;
        Ok(Box::new(Gathering::begin(By::Served(serve), None, arrived, spaces)?))
    }
}
