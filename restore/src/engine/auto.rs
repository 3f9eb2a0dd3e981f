//! Whichever engine can restore the tree, qmig's own first.

use std::cell::Cell;

use image::plan::{CRIU, Plan, Refusal};
use transport::wire::SpaceTotal;

use super::{Arrived, Engine, Hollow, Native, Stock};
use crate::failure::Cause;
use crate::files::Files;
use crate::skeleton::BuildOptions;

/// [`Native`], unless the plan needs a CRIU and there is one.
#[derive(Debug)]
pub struct Auto {
    native: Native,
    stock: Option<Stock>,
    by_stock: Cell<bool>,
}

impl Auto {
    /// With the CRIU of this host, if there is one.
    pub fn new(options: BuildOptions, stock: Option<Stock>) -> Self {
        Self { native: Native { options }, stock, by_stock: Cell::new(false) }
    }

    fn chosen(&self) -> &dyn Engine {
        match &self.stock {
            Some(stock) if self.by_stock.get() => stock,
            _ => &self.native,
        }
    }
}

impl Engine for Auto {
    fn check(&self, plan: &Plan) -> Result<(), Vec<Refusal>> {
        self.by_stock.set(plan.needs.iter().any(|need| need == CRIU));
        self.chosen().check(plan)
    }

    fn builds_early(&self) -> bool {
        false
    }

    fn files(&self, plan: &Plan) -> Result<Option<Files>, Cause> {
        self.chosen().files(plan)
    }

    fn build(&self, arrived: Arrived, spaces: &[SpaceTotal]) -> Result<Hollow, Cause> {
        self.chosen().build(arrived, spaces)
    }

    fn grows(&self) -> Option<BuildOptions> {
        self.native.grows()
    }
}
