//! Tidiness is a test: what the documents promise about the code is true of the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file of a folder of the project.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    found
}

const CRATES: [&str; 10] = [
    "pages",
    "image",
    "tracee",
    "criu",
    "rootfs",
    "transport",
    "checkpoint",
    "restore",
    "cli",
    "netns-tests",
];

/// The picture at the top of ARCHITECTURE.md, as edges: who may import whom.
#[test]
fn crates_import_only_what_the_map_allows() {
    let allowed: [(&str, &[&str]); 10] = [
        ("pages", &[]),
        ("image", &["pages"]),
        ("tracee", &["pages"]),
        ("criu", &["pages", "image"]),
        ("rootfs", &[]),
        ("transport", &["pages"]),
        ("checkpoint", &["pages", "image", "tracee", "criu", "rootfs", "transport"]),
        ("restore", &["pages", "image", "tracee", "criu", "rootfs", "transport"]),
        (
            "cli",
            &[
                "pages",
                "image",
                "tracee",
                "criu",
                "transport",
                "checkpoint",
                "restore",
                "netns-tests",
            ],
        ),
        ("netns-tests", &[]),
    ];
    for (name, may) in allowed {
        let manifest = read(&format!("{name}/Cargo.toml"));
        let (_, dependencies) = manifest.split_once("[dependencies]").unwrap_or(("", ""));
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        let imports: BTreeSet<&str> = dependencies
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|word| CRATES.contains(word))
            .collect();
        let may: BTreeSet<&str> = may.iter().copied().collect();
        let extra: Vec<_> = imports.difference(&may).collect();
        assert!(extra.is_empty(), "{name} imports {extra:?}, which ARCHITECTURE.md does not allow");
    }
}

#[test]
fn unsafe_stays_in_its_fence() {
    for name in CRATES {
        for (path, text) in sources(&format!("{name}/src")) {
            let fenced =
                path.components().any(|part| part.as_os_str() == "sys") && name == "tracee";
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let uses = code.filter(|line| line.contains("unsafe {") || line.contains("unsafe fn"));
            assert!(
                fenced || uses.count() == 0,
                "unsafe outside tracee/src/sys: {}",
                path.display()
            );
        }
    }
}

/// PROTOCOL.md carries the hash of the code it describes: whoever changes the wire re-reads it.
#[test]
fn the_protocol_page_was_read_with_this_wire() {
    let line = "find transport/src/wire -type f | LC_ALL=C sort | xargs cat | sha256sum";
    let hash =
        Command::new("sh").arg("-c").arg(line).current_dir(root()).output().expect("a shell");
    let hash = String::from_utf8(hash.stdout).expect("text");
    let hash = hash.split(' ').next().expect("a hash");
    assert!(
        read("PROTOCOL.md").contains(hash),
        "transport/src/wire has changed: re-read PROTOCOL.md, then write {hash} into it"
    );
}

#[test]
fn no_file_has_grown_out_of_hand() {
    let long = CRATES.iter().flat_map(|name| sources(name)).filter_map(|(path, text)| {
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        (lines > 650).then(|| format!("{} has {lines} lines", path.display()))
    });
    let long: Vec<_> = long.collect();
    assert!(long.is_empty(), "a second noun has moved in: {long:#?}");
}

#[test]
fn the_changelog_speaks_of_the_version_being_built() {
    let changelog = read("CHANGELOG.md");
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        changelog.contains("## Unreleased") || changelog.contains(&format!("## {version}")),
        "CHANGELOG.md says nothing of {version}"
    );
}
