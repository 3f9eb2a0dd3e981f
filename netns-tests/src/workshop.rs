//! Makes subjects from their sources, at first use.
//!
//! The product must not need a C compiler, so there is no build script: the first test that wants a
//! subject compiles it into `target/subjects/`, under a name that holds the hash of its sources.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{LabError, Result};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/subjects");
const COMPILER: &str = "cc";
const FLAGS: [&str; 9] = [
    "-std=gnu17",
    "-D_GNU_SOURCE",
    "-O1",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-pthread",
    "-fno-strict-aliasing",
];

/// The executable of subject `name`, compiled if its sources changed.
pub(crate) fn subject(name: &str) -> Result<PathBuf> {
    let source = Path::new(SOURCES).join(name).with_extension("c");
    let mut hasher = DefaultHasher::new();
    FLAGS.hash(&mut hasher);
    let shared = ["subject.h", "listener.h"].map(|header| Path::new(SOURCES).join(header));
    for file in shared.iter().chain([&source]) {
        std::fs::read(file).map_err(LabError::file("read", file))?.hash(&mut hasher);
    }
    let folder = folder()?;
    let done = folder.join(format!("{name}-{:016x}", hasher.finish()));
    if done.is_file() {
        return Ok(done);
    }
    // Tests may compile the same subject at the same time: each makes its own, the first one wins.
    let draft = tempfile::Builder::new()
        .prefix(name)
        .tempfile_in(&folder)
        .map_err(LabError::file("make a file in", &folder))?
        .into_temp_path();
    let mut compile = Command::new(COMPILER);
    compile.args(FLAGS).arg("-o").arg(&draft).arg(&source).arg("-lrt");
    run(compile)?;
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755))
        .map_err(LabError::file("make executable", draft.to_path_buf()))?;
    // Another test may have made it meanwhile, and run it already: what it maps must keep its name.
    match draft.persist_noclobber(&done) {
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {}
        kept => drop(kept.map_err(|error| LabError::file("rename to", &done)(error.error))?),
    }
    Ok(done)
}

/// The source of the subject `name` in another language than C.
pub(crate) fn source(name: &str, extension: &str) -> PathBuf {
    Path::new(SOURCES).join(name).with_extension(extension)
}

/// The folder with the classes of the Java subject `name`, compiled if its source changed.
pub(crate) fn java_classes(name: &str) -> Result<PathBuf> {
    let source = source(name, "java");
    let mut hasher = DefaultHasher::new();
    std::fs::read(&source).map_err(LabError::file("read", &source))?.hash(&mut hasher);
    let folder = folder()?;
    let done = folder.join(format!("{name}-{:016x}", hasher.finish()));
    if done.is_dir() {
        return Ok(done);
    }
    let draft =
        tempfile::tempdir_in(&folder).map_err(LabError::file("make a folder in", &folder))?;
    let mut compile = Command::new("javac");
    compile.arg("-d").arg(draft.path()).arg(&source);
    run(compile)?;
    match std::fs::rename(draft.path(), &done) {
        Err(_) if done.is_dir() => Ok(done), // another test was faster
        renamed => renamed.map(|()| done.clone()).map_err(LabError::file("rename to", &done)),
    }
}

fn run(mut compile: Command) -> Result<()> {
    let program = compile.get_program().display().to_string();
    let output = compile.output().map_err(|source| LabError::Spawn { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(LabError::Command {
        line: format!("{compile:?}"),
        status: output.status,
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// `target/subjects`, found from the running test (`target/debug/deps/TEST`), else a place in /tmp.
fn folder() -> Result<PathBuf> {
    let exe = std::env::current_exe().ok();
    let target = exe.as_deref().and_then(|exe| {
        exe.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).map(Path::to_owned)
    });
    let folder = target.unwrap_or_else(|| std::env::temp_dir().join("qmig-lab")).join("subjects");
    std::fs::create_dir_all(&folder).map_err(LabError::file("make", &folder))?;
    Ok(folder)
}
