//! `qmig inspect`: images as JSON, one document for each image.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::chain;
use crate::args::Inspect;
use crate::exit::Exit;
use crate::progress::{Failure, Progress};

/// Larger files are pages, or nothing that a person wants to read.
const LARGEST: u64 = 256 << 20;

pub(crate) fn run(args: &Inspect, _progress: &mut Progress) -> Result<Exit, Failure> {
    let mut all = Map::new();
    for path in images_at(&args.path)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        all.insert(name.clone(), show(&path, &name)?);
    }
    let text = serde_json::to_string_pretty(&Value::Object(all))
        .map_err(|error| Failure::here(format!("print the images: {error}")))?;
    println!("{text}");
    Ok(Exit::Done)
}

fn images_at(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let fail = |error| {
        Failure::usage(format!("read {}: {error}", path.display()), "name a directory of images")
    };
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut images = fs::read_dir(path)
        .and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
        })
        .map_err(fail)?;
    images.retain(|path| path.is_file() && path.extension().is_some_and(|end| end == "img"));
    images.sort();
    Ok(images)
}

fn show(path: &Path, name: &str) -> Result<Value, Failure> {
    let fail = |error| Failure::here(format!("read {}: {error}", path.display()));
    let size = fs::metadata(path).map_err(fail)?.len();
    if size > LARGEST || name.starts_with("pages-") {
        return Ok(serde_json::json!({ "bytes": size }));
    }
    let bytes = fs::read(path).map_err(fail)?;
    image::inspect(name, &bytes).map_err(|error| Failure::here(chain(&error)))
}
