//! Can this host carry the container? Its files, its addresses and its numbers of processes are its
//! own; what it wants of the host is a processor, a kernel, its runtime and its root file system.

use std::collections::BTreeSet;
use std::path::Path;

use criu::{CONFIG, Container, ContainerState};
use image::plan::{
    CHANGED_FILES, CONNECTIONS, CONTAINER, CRIU, INPUT, MOUNT, NETWORK, Plan, ROOT_FILES, Refusal,
    TERMINAL,
};
use rootfs::Claim;

use super::{HERE, host};
use crate::skeleton::BuildOptions;

/// What a container may need.
const KNOWN: [&str; 6] = [CONNECTIONS, CONTAINER, CRIU, INPUT, ROOT_FILES, TERMINAL];

/// Every reason why `plan` cannot become this container of that bundle.
pub(crate) fn check(plan: &Plan, container: &Container, bundle: &Path) -> Result<(), Vec<Refusal>> {
    let mut refusals = Vec::new();
    if !plan.needs.iter().any(|need| need == CONTAINER) {
        let reason = "it is no container, and a container is waited for";
        let hint = "use `qmig restore` here without a container";
        refusals.push(Refusal::new(&plan.command, HERE, reason).hint(hint));
    }
    let named =
        |need: &str| [CHANGED_FILES, MOUNT, NETWORK].iter().any(|kind| need.starts_with(kind));
    let known = |need: &str| KNOWN.contains(&need) || named(need);
    for need in plan.needs.iter().filter(|need| !known(need)) {
        refusals.push(Refusal::new(need, HERE, "a stock CRIU does not know it"));
    }
    let here = container.ask();
    let (reason, hint) = match (&here, container.is_kept()) {
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
    let comes_with_terminal = plan.needs.iter().any(|need| need == TERMINAL);
    if comes_with_terminal && !container.is_kept() && container.console.is_none() {
        let reason = "nobody here takes its other end";
        let hint = "name a socket where somebody does: `--console-socket PATH`";
        refusals.push(Refusal::new(TERMINAL, HERE, reason).hint(hint));
    }
    if let (Ok(here), true) = (&here, container.is_kept()) {
        let unlike = unlike(plan, comes_with_terminal, here);
        let refusal = |(reason, hint)| Refusal::new(&container.id, HERE, reason).hint(hint);
        refusals.extend(unlike.into_iter().map(refusal));
    }
    host::check(plan, BuildOptions::default(), &mut refusals);
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// In what the container of Podman's here is unlike the one that comes, and what to do about it: its
/// networks, its terminal, its standard input, its volumes and its image are those that it was made with.
fn unlike(plan: &Plan, has_terminal: bool, here: &ContainerState) -> Vec<(String, &'static str)> {
    let named =
        |kind: &'static str| plan.needs.iter().filter_map(move |need| need.strip_prefix(kind));
    let mut unlike = Vec::new();
    let (wanted, own): (BTreeSet<_>, BTreeSet<_>) =
        (named(NETWORK).collect(), here.own_networks().map(|(name, _)| name).collect());
    if wanted != own {
        unlike.push(match wanted.is_empty() {
            true => (
                format!("it is in {} here, and the other in none", networks(&own)),
                "make a container like the other, with its --network",
            ),
            false => (
                format!("it is not in {}, and no other, here", networks(&wanted)),
                "make a container like the other in networks of the same names",
            ),
        });
    }
    if has_terminal != here.has_terminal() {
        unlike.push(match has_terminal {
            true => ("it has no terminal here".to_owned(), "make one like the other, with -t"),
            false => ("it has a terminal here".to_owned(), "make one like the other, without -t"),
        });
    }
    let hears = plan.needs.iter().any(|need| need == INPUT);
    if hears != here.hears {
        unlike.push(match hears {
            true => (
                "its standard input is not kept open here".to_owned(),
                "make one like the other, with -i",
            ),
            false => (
                "its standard input is kept open here, and there not".to_owned(),
                "make one like the other, without -i",
            ),
        });
    }
    let (wanted, own): (BTreeSet<_>, BTreeSet<_>) =
        (named(MOUNT).collect(), here.mounted().collect());
    for place in wanted.symmetric_difference(&own) {
        unlike.push(match wanted.contains(place) {
            true => (
                format!("nothing is mounted at {place} here"),
                "make one like the other, with that --volume, and see that it holds the same",
            ),
            false => (
                format!("something is mounted at {place} here, and there nothing"),
                "make one like the other, without that --volume",
            ),
        });
    }
    if let Some(image) = named(CHANGED_FILES).next().filter(|image| *image != here.image) {
        let reason = format!("it is made of image {:?} here, and there of {image:?}", here.image);
        unlike.push((reason, "pull that image and make a container like the other of it"));
    }
    unlike
}

/// `network "a"`, `networks "a" and "b"`.
fn networks(names: &BTreeSet<&str>) -> String {
    let shown: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    let many = if shown.len() == 1 { "" } else { "s" };
    format!("network{many} {}", shown.join(" and "))
}
