//! Can this host carry the container? Its files, its addresses and its numbers of processes are its
//! own; what it wants of the host is a processor, a kernel, its runtime and its root file system.

use std::path::Path;

use criu::Container;
use image::plan::{CONTAINER, CRIU, Plan, Refusal};

use super::{HERE, host};
use crate::skeleton::BuildOptions;

/// Every reason why `plan` cannot become this container of that bundle.
pub(crate) fn check(plan: &Plan, container: &Container, bundle: &Path) -> Result<(), Vec<Refusal>> {
    let mut refusals = Vec::new();
    if !plan.needs.iter().any(|need| need == CONTAINER) {
        let reason = "it is no container, and a container is waited for";
        let hint = "use `qmig restore` here without a container";
        refusals.push(Refusal::new(&plan.command, HERE, reason).hint(hint));
    }
    for need in plan.needs.iter().filter(|need| ![CONTAINER, CRIU].contains(&need.as_str())) {
        refusals.push(Refusal::new(need, HERE, "a stock CRIU does not know it"));
    }
    let place = bundle.display().to_string();
    if !bundle.is_dir() {
        let hint = "make it, with the root file system of the container";
        refusals.push(Refusal::new("bundle", &place, "there is no such directory").hint(hint));
    }
    if let Ok(there) = container.ask() {
        let reason =
            format!("there is one of this name, and it is {}", there.status.escape_debug());
        refusals.push(Refusal::new(&container.id, HERE, reason).hint("take another name"));
    }
    host::check(plan, BuildOptions::default(), &mut refusals);
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}
