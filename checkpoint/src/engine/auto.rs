//! Whichever engine can carry the tree, qmig's own first.

use std::cell::Cell;

use image::plan::Plan;
use tracee::HostPid;

use super::{Engine, Freezing, Native, Stock};
use crate::downtime::Downtime;
use crate::error::SurveyError;
use crate::failure::Cause;
use crate::files::Files;
use crate::rounds::Rounds;
use crate::survey::{self, SurveyOptions};

/// [`Native`], unless it refuses a tree for nothing but what [`Stock`] can carry.
#[derive(Debug)]
pub struct Auto {
    native: Native,
    stock: Option<Stock>,
    by_stock: Cell<bool>,
}

impl Auto {
    /// With the CRIU of this host, if there is one.
    pub fn new(native: Native, stock: Option<Stock>) -> Self {
        Self { native, stock, by_stock: Cell::new(false) }
    }

    fn chosen(&self) -> &dyn Engine {
        match &self.stock {
            Some(stock) if self.by_stock.get() => stock,
            _ => &self.native,
        }
    }
}

impl Engine for Auto {
    fn survey(&self, root: HostPid, options: &SurveyOptions) -> Result<Plan, SurveyError> {
        let refused = match self.native.survey(root, options) {
            Err(SurveyError::Refused(refused)) => refused,
            other => return other,
        };
        match &self.stock {
            Some(stock) if survey::criu_can(&refused) => {
                self.by_stock.set(true);
                stock.survey(root, options)
            }
            _ => Err(SurveyError::Refused(refused)),
        }
    }

    fn get_ready(&self, root: HostPid, options: &SurveyOptions) {
        self.chosen().get_ready(root, options);
    }

    fn files(&self, root: HostPid) -> Result<Option<Files>, Cause> {
        self.chosen().files(root)
    }

    fn pre_copies(&self) -> bool {
        self.chosen().pre_copies()
    }

    fn freeze<'a>(
        &'a self,
        root: HostPid,
        known: (&'a Plan, Option<&'a Rounds>),
        options: &'a SurveyOptions,
        downtime: &'a mut Downtime,
    ) -> Freezing<'a> {
        self.chosen().freeze(root, known, options, downtime)
    }
}
