//! Where the root file system of a container is, as its configuration says.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::container::CONFIG;

/// Its place in a bundle, if nothing says otherwise.
const ROOT: &str = "rootfs";

/// The root file system of this bundle. One without a configuration will get one that says so.
pub fn root_of(bundle: &Path) -> PathBuf {
    let config = std::fs::read(bundle.join(CONFIG)).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    bundle.join(config["root"]["path"].as_str().unwrap_or(ROOT))
}

/// The configuration of this bundle gives its container a terminal. One that cannot be read is its
/// runtime's trouble.
pub(crate) fn has_terminal(bundle: &Path) -> bool {
    let config = std::fs::read(bundle.join(CONFIG)).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    config["process"]["terminal"] == true
}

/// The kinds of namespaces that this bundle's container has in common with somebody else, beside its
/// network: `ipc`, `pid`…
pub(crate) fn shared_namespaces(bundle: &Path) -> Vec<String> {
    let config = std::fs::read(bundle.join(CONFIG)).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let all = config["linux"]["namespaces"].as_array().into_iter().flatten();
    let others = all.filter(|one| one["path"].as_str().is_some_and(|path| !path.is_empty()));
    let kinds = others.filter_map(|one| one["type"].as_str());
    kinds.filter(|kind| *kind != "network").map(str::to_owned).collect()
}

/// A configuration of elsewhere whose root file system is where we put it; `None` if it is no
/// configuration. One that says so already is left as it is.
pub fn rerooted(config: &[u8]) -> Option<Vec<u8>> {
    let mut changed: Value = serde_json::from_slice(config).ok()?;
    let root =
        changed.as_object_mut()?.entry("root").or_insert_with(|| json!({})).as_object_mut()?;
    if root.get("path").is_some_and(|path| path == ROOT) {
        return Some(config.to_vec());
    }
    root.insert("path".to_owned(), json!(ROOT));
    serde_json::to_vec_pretty(&changed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_has_too_is_told() {
        let bundle = tempfile::tempdir().expect("a folder");
        assert!(shared_namespaces(bundle.path()).is_empty());
        let config = r#"{"linux": {"namespaces": [{"type": "pid", "path": ""}, {"type": "uts"},
            {"type": "network", "path": "/run/netns/a"}, {"type": "ipc", "path": "/proc/1/ns/ipc"}]}}"#;
        std::fs::write(bundle.path().join(CONFIG), config).expect("written");
        assert_eq!(shared_namespaces(bundle.path()), ["ipc"]);
    }

    #[test]
    fn the_root_is_where_the_configuration_says_or_where_we_say() {
        let bundle = tempfile::tempdir().expect("a folder");
        let write = |text: &str| std::fs::write(bundle.path().join(CONFIG), text).expect("written");
        assert_eq!(root_of(bundle.path()), bundle.path().join(ROOT));
        write(r#"{"root": {"path": "other"}}"#);
        assert_eq!(root_of(bundle.path()), bundle.path().join("other"));
        write(r#"{"root": {"path": "/other"}}"#);
        assert_eq!(root_of(bundle.path()), Path::new("/other"));

        let plain = br#"{ "root":{"path":"rootfs","readonly":true}}"#;
        assert_eq!(rerooted(plain).as_deref(), Some(&plain[..]));
        let moved = rerooted(br#"{"root": {"path": "/etc", "readonly": true}}"#).expect("moved");
        let moved: Value = serde_json::from_slice(&moved).expect("json");
        assert_eq!(moved, json!({"root": {"path": "rootfs", "readonly": true}}));
        assert!(rerooted(b"{}").is_some());
        for nonsense in [&b"[]"[..], b"", b"{", br#"{"root": 1}"#] {
            assert_eq!(rerooted(nonsense), None, "{nonsense:?}");
        }
    }
}
