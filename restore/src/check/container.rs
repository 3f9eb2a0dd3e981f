//! Can this host carry the container? Its files, its addresses and its numbers of processes are its
//! own; what it wants of the host is a processor, a kernel, its runtime and its root file system.

use std::path::Path;

use criu::{CONFIG, Container};
use image::plan::{
    CHANGED_FILES, CONNECTIONS, CONTAINER, CRIU, NETWORK, Plan, ROOT_FILES, Refusal, TERMINAL,
};
use rootfs::Claim;

use super::{HERE, host};
use crate::skeleton::BuildOptions;

/// What a container may need.
const KNOWN: [&str; 5] = [CONNECTIONS, CONTAINER, CRIU, ROOT_FILES, TERMINAL];

/// Every reason why `plan` cannot become this container of that bundle.
pub(crate) fn check(plan: &Plan, container: &Container, bundle: &Path) -> Result<(), Vec<Refusal>> {
    let mut refusals = Vec::new();
    if !plan.needs.iter().any(|need| need == CONTAINER) {
        let reason = "it is no container, and a container is waited for";
        let hint = "use `qmig restore` here without a container";
        refusals.push(Refusal::new(&plan.command, HERE, reason).hint(hint));
    }
    let named = |need: &str| [CHANGED_FILES, NETWORK].iter().any(|kind| need.starts_with(kind));
    let known = |need: &str| KNOWN.contains(&need) || named(need);
    for need in plan.needs.iter().filter(|need| !known(need)) {
        refusals.push(Refusal::new(need, HERE, "a stock CRIU does not know it"));
    }
    let (reason, hint) = match (container.ask(), container.is_kept()) {
        (Ok(there), false) => (
            format!("there is one of this name, and it is {}", there.status.escape_debug()),
            "take another name",
        ),
        (Ok(there), true) if there.pid != 0 => {
            ("it runs".to_owned(), "stop it: the one that arrives takes its place")
        }
        (Ok(_), true) if !bundle.join(CONFIG).is_file() => {
            ("it has never run here".to_owned(), "start it and stop it")
        }
        (Err(error), true) => (error.to_string(), "make one like it here, start it and stop it"),
        (Err(_), false) if !bundle.is_dir() => (
            format!("there is no directory {}", bundle.display()),
            "make it, with the root file system of the container",
        ),
        _ => (String::new(), ""),
    };
    if !reason.is_empty() {
        refusals.push(Refusal::new(&container.id, HERE, reason).hint(hint));
    }
    if plan.needs.iter().any(|need| need == ROOT_FILES) {
        let folder = criu::root_of(bundle);
        if container.is_kept() {
            let reason = "Podman has it from its image";
            refusals.push(Refusal::new(ROOT_FILES, HERE, reason).hint("leave out --with-rootfs"));
        } else if let Some(reason) = Claim::refusal(&folder) {
            let hint = "remove what is there, or leave out --with-rootfs if it is the same there";
            refusals.push(Refusal::new(folder.display().to_string(), HERE, reason).hint(hint));
        }
    }
    if plan.needs.iter().any(|need| need == TERMINAL) && container.console.is_none() {
        let reason = "nobody here takes its other end";
        let hint = "name a socket where somebody does: `--console-socket PATH`";
        refusals.push(Refusal::new(TERMINAL, HERE, reason).hint(hint));
    }
    if let Some(network) = plan.needs.iter().find_map(|need| need.strip_prefix(NETWORK)) {
        let here = container.ask().ok();
        let here = here.as_ref().and_then(|state| state.only_network());
        if here.is_none_or(|(name, _)| name != network) {
            let reason = format!("it is not in network {network:?}, and that alone, here");
            let hint = "make a container like the other in a network of that name";
            refusals.push(Refusal::new(&container.id, HERE, reason).hint(hint));
        }
    }
    if let Some(image) = plan.needs.iter().find_map(|need| need.strip_prefix(CHANGED_FILES)) {
        let here = container.ask().map(|state| state.image).unwrap_or_default();
        if here != image {
            let reason = format!("it is made of image {here:?} here, and there of {image:?}");
            let hint = "pull that image and make a container like the other of it";
            refusals.push(Refusal::new(&container.id, HERE, reason).hint(hint));
        }
    }
    host::check(plan, BuildOptions::default(), &mut refusals);
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}
