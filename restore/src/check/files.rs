//! Is every file there, and is it the same file?

use std::fs::{Metadata, metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use image::plan::{Plan, PlannedFile, PlannedKind, Refusal, build_id};
use nix::libc;

use crate::skeleton::BuildOptions;

pub(super) fn check(plan: &Plan, options: BuildOptions, refusals: &mut Vec<Refusal>) {
    for file in &plan.files {
        if made_with_the_tree(&file.path, plan, options) {
            continue;
        }
        let path = Path::new(&file.path);
        let refuse = |reason: String| Refusal::new(&file.path, &file.used_as, reason);
        let found = match metadata(path) {
            Ok(found) => found,
            Err(error) => {
                let hint = "make it available here, e.g. by the same shared file system";
                refusals.push(refuse(format!("not here: {error}")).hint(hint));
                continue;
            }
        };
        refusals.extend(differences(file, &found).into_iter().map(refuse));
    }
}

/// Files of /proc about a task of the tree come into being with it.
fn made_with_the_tree(path: &str, plan: &Plan, options: BuildOptions) -> bool {
    let Some(rest) = path.strip_prefix("/proc/") else { return false };
    let number = rest.split('/').next().and_then(|part| part.parse().ok());
    let ours = |id: u32| plan.tasks.iter().flat_map(|task| &task.threads).any(|task| task.0 == id);
    options.pidns || number.is_some_and(ours)
}

fn differences(file: &PlannedFile, found: &Metadata) -> Vec<String> {
    let kind = match found.mode() & libc::S_IFMT {
        libc::S_IFDIR => Some(PlannedKind::Directory),
        libc::S_IFCHR => Some(PlannedKind::CharDevice),
        libc::S_IFBLK => Some(PlannedKind::BlockDevice),
        libc::S_IFREG => Some(PlannedKind::Regular),
        libc::S_IFIFO => Some(PlannedKind::Fifo),
        _ => None,
    };
    if kind != Some(file.kind) {
        let here = kind.map_or_else(|| other_kind(found).to_owned(), |kind| kind.to_string());
        return vec![format!("the program has a {}, here is a {here}", file.kind)];
    }
    let mut differences = Vec::new();
    if let Some(size) = file.size
        && size != found.len()
    {
        differences.push(format!("{size} bytes at the source, {} here", found.len()));
    }
    if file.mode != found.mode() {
        differences.push(format!("mode {:o} at the source, {:o} here", file.mode, found.mode()));
    }
    if let Some(rdev) = file.rdev
        && rdev != found.rdev()
    {
        let [there, here] = [rdev, found.rdev()].map(|dev| (libc::major(dev), libc::minor(dev)));
        differences.push(format!(
            "device {}:{} at the source, {}:{} here",
            there.0, there.1, here.0, here.1
        ));
    }
    // Only a regular file is opened: a fifo would wait for somebody.
    if file.kind == PlannedKind::Regular
        && let Some(there) = &file.build_id
        && let Some(here) = build_id(Path::new(&file.path))
        && *there != here
    {
        let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        differences.push(format!(
            "another build: id {} at the source, {} here",
            hex(there),
            hex(&here)
        ));
    }
    differences
}

fn other_kind(found: &Metadata) -> &'static str {
    if found.file_type().is_socket() { "socket" } else { "file of another kind" }
}

#[cfg(test)]
mod tests {
    use pages::TaskId;

    use super::*;

    fn planned(path: &str) -> PlannedFile {
        let found = metadata(path).expect("there");
        PlannedFile {
            path: path.into(),
            kind: PlannedKind::Regular,
            size: Some(found.len()),
            mode: found.mode(),
            build_id: build_id(Path::new(path)),
            rdev: None,
            used_as: "mapped by 7".into(),
        }
    }

    fn reasons(file: PlannedFile) -> Vec<String> {
        let mut plan = crate::check::tests::easy();
        plan.files = vec![file];
        let mut refusals = Vec::new();
        check(&plan, BuildOptions::default(), &mut refusals);
        refusals.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_file_is_accepted_and_every_difference_named() {
        let sh = planned("/bin/sh");
        assert!(sh.build_id.is_some(), "a Debian shell has a build id");
        assert_eq!(reasons(sh.clone()), [""; 0]);
        let changed = [
            (PlannedFile { size: Some(1), ..sh.clone() }, "1 bytes at the source"),
            (PlannedFile { mode: 0o100_000, ..sh.clone() }, "mode 100000 at the source"),
            (PlannedFile { build_id: Some(vec![1]), ..sh.clone() }, "another build: id 01"),
            (PlannedFile { kind: PlannedKind::Directory, ..sh.clone() }, "here is a file"),
            (PlannedFile { path: "/no/such".into(), ..sh }, "/no/such (mapped by 7): not here"),
        ];
        for (file, expected) in changed {
            let reasons = reasons(file);
            assert_eq!(reasons.len(), 1, "{reasons:?}");
            assert!(reasons[0].contains(expected), "{expected} in {}", reasons[0]);
        }
    }

    #[test]
    fn another_device_is_named_by_its_numbers() {
        let null = PlannedFile {
            kind: PlannedKind::CharDevice,
            size: None,
            rdev: Some(libc::makedev(1, 5)),
            ..planned("/dev/null")
        };
        assert!(reasons(null)[0].contains("device 1:5 at the source, 1:3 here"));
    }

    #[test]
    fn files_about_the_tree_itself_are_not_expected_beforehand() {
        let mut plan = crate::check::tests::easy();
        plan.tasks = vec![image::plan::PlannedTask {
            id: TaskId(4_000_000),
            parent: None,
            comm: String::new(),
            threads: vec![TaskId(4_000_000)],
        }];
        let options = BuildOptions::default();
        assert!(made_with_the_tree("/proc/4000000/stat", &plan, options));
        assert!(!made_with_the_tree("/proc/4000001/stat", &plan, options));
        assert!(!made_with_the_tree("/etc/passwd", &plan, options));
    }
}
