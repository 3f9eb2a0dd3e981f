//! Files go through a stream into another folder, and are the same there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error;
use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rootfs::{About, Changes, Entry, Index, Kind, RelPath, StreamWriter, Tree, Unpacker, Users};
use rustix::fs::{FileType, Mode, XattrFlags, mknodat};

type Outcome = Result<(), Box<dyn Error>>;

/// Everything that can be told of a file, beside its name.
#[derive(Debug, PartialEq, Eq)]
struct Portrait {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    device: u64,
    modified: (i64, i64),
    accessed: (i64, i64),
    content: Vec<u8>,
    target: Option<PathBuf>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same file.
    first: PathBuf,
}

fn portraits(folder: &Path) -> Result<BTreeMap<PathBuf, Portrait>, Box<dyn Error>> {
    let mut names = vec![folder.to_owned()];
    let mut all: Vec<PathBuf> = Vec::new();
    while let Some(path) = names.pop() {
        if fs::symlink_metadata(&path)?.is_dir() {
            names.extend(
                fs::read_dir(&path)?
                    .map(|entry| entry.map(|entry| entry.path()))
                    .collect::<Result<Vec<_>, _>>()?,
            );
        }
        all.push(path);
    }
    all.sort();
    let mut firsts = HashMap::new();
    let mut portraits = BTreeMap::new();
    for path in all {
        let about = fs::symlink_metadata(&path)?;
        let name = path.strip_prefix(folder)?.to_owned();
        let first =
            firsts.entry((about.dev(), about.ino())).or_insert_with(|| name.clone()).clone();
        let file = about.is_file();
        let mut attributes = BTreeMap::new();
        let mut list = vec![0; 4096];
        let length = rustix::fs::llistxattr(&path, &mut *list).unwrap_or(0);
        for key in list[..length].split(|byte| *byte == 0).filter(|key| !key.is_empty()) {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(&path, key, &mut *value)?;
            attributes.insert(key.to_vec(), value[..length].to_vec());
        }
        let portrait = Portrait {
            mode: about.mode(),
            owner: (about.uid(), about.gid()),
            size: if about.is_dir() { 0 } else { about.size() },
            device: about.rdev(),
            modified: (about.mtime(), about.mtime_nsec()),
            accessed: if file { (about.atime(), about.atime_nsec()) } else { (0, 0) },
            content: if file { read_without_a_trace(&path)? } else { Vec::new() },
            target: fs::read_link(&path).ok(),
            attributes,
            first,
        };
        portraits.insert(name, portrait);
    }
    Ok(portraits)
}

fn read_without_a_trace(path: &Path) -> std::io::Result<Vec<u8>> {
    use rustix::fs::OFlags;
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::NOATIME, Mode::empty())?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut fs::File::from(file), &mut bytes)?;
    Ok(bytes)
}

/// One of everything.
fn furnish(folder: &Path) -> Outcome {
    let at = |name: &str| folder.join(name);
    for name in ["bin", "empty", "deep/er/est"] {
        fs::create_dir_all(at(name))?;
    }
    fs::write(at("bin/plain"), b"plain")?;
    fs::write(at("bin/nothing"), b"")?;
    fs::write(at("bin/large"), vec![7; 3 << 20])?;
    let sparse = fs::File::create(at("bin/sparse"))?;
    sparse.write_all_at(b"in the middle", 40 << 20)?;
    sparse.set_len(100 << 20)?;
    fs::hard_link(at("bin/plain"), at("deep/er/twin"))?;
    fs::hard_link(at("bin/plain"), at("again"))?;
    symlink("/etc/passwd", at("out"))?;
    symlink("bin", at("in"))?;
    let near = |name| (fs::File::open(folder), name);
    for (kind, (opened, name), device) in [
        (FileType::CharacterDevice, near("null"), rustix::fs::makedev(1, 3)),
        (FileType::BlockDevice, near("loop"), rustix::fs::makedev(7, 0)),
        (FileType::Fifo, near("fifo"), 0),
        (FileType::Socket, near("socket"), 0),
    ] {
        mknodat(opened?, name, kind, Mode::from_raw_mode(0o640), device)?;
    }
    std::os::unix::fs::chown(at("bin/plain"), Some(1000), Some(1001))?;
    std::os::unix::fs::lchown(at("out"), Some(5), Some(6))?;
    fs::set_permissions(at("bin/large"), fs::Permissions::from_mode(0o6755))?;
    fs::set_permissions(at("empty"), fs::Permissions::from_mode(0o1777))?;
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (name, key, value) in [
        ("bin/large", "security.capability", &capability[..]),
        ("bin/sparse", "trusted.qmig", b"trusted"),
        ("empty", "trusted.folder", b""),
    ] {
        rustix::fs::setxattr(at(name), key, value, XattrFlags::empty())?;
    }
    age(folder)
}

/// Times of long ago, each its own, so that none is as it is by chance.
fn age(folder: &Path) -> Outcome {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    for (number, name) in portraits(folder)?.into_keys().rev().enumerate() {
        let spec = |seconds: i64| Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let seconds = 1_000_000_000 + i64::try_from(number)? * 1000;
        let times = Timestamps { last_access: spec(seconds), last_modification: spec(seconds + 1) };
        utimensat(CWD, folder.join(name), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// A place on a file system with extended attributes, if this test may be run.
fn place() -> Option<tempfile::TempDir> {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "needs root");
        eprintln!("SKIPPED: needs root");
        return None;
    }
    Some(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder"))
}

fn pass(
    tree: &Tree,
    index: &mut Index,
    changes: &Changes,
    users: Users,
    to: &mut Unpacker,
) -> Outcome {
    let mut stream = Vec::new();
    let sent = tree.send(index, changes, users, &mut stream)?;
    to.unpack(&stream[..])?;
    assert!(sent.files >= changes.changed.len() as u64);
    Ok(())
}

#[test]
fn everything_arrives_as_it_was_and_then_what_changed() -> Outcome {
    let Some(place) = place() else { return Ok(()) };
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir(&from)?;
    fs::create_dir(&to)?;
    furnish(&from)?;
    let tree = Tree::open(&from)?;
    let mut unpacker = Unpacker::new(&to)?;
    let mut before = Index::look(&tree, Users::Run)?;
    let all = before.all();
    pass(&tree, &mut before, &all, Users::Run, &mut unpacker)?;
    assert_eq!(portraits(&to)?, portraits(&from)?);
    assert!(fs::metadata(to.join("bin/sparse"))?.blocks() * 512 < 16 << 20, "a hole was filled");
    assert!(unpacker.done().bytes < 8 << 20, "holes were sent: {:?}", unpacker.done());

    // What a program may do meanwhile.
    fs::write(from.join("bin/plain"), b"changed")?;
    fs::remove_file(from.join("null"))?;
    fs::remove_dir_all(from.join("deep"))?;
    fs::write(from.join("deep"), b"a file where a folder was")?;
    fs::remove_file(from.join("fifo"))?;
    fs::create_dir_all(from.join("fifo/was"))?;
    fs::write(from.join("bin/new"), b"new")?;
    fs::remove_file(from.join("in"))?;
    symlink("elsewhere", from.join("in"))?;
    fs::OpenOptions::new().write(true).open(from.join("bin/large"))?.set_len(10)?;
    fs::set_permissions(from.join("empty"), fs::Permissions::from_mode(0o700))?;
    rustix::fs::removexattr(from.join("empty"), "trusted.folder")?;
    rustix::fs::setxattr(from.join("bin"), "trusted.new", b"1", XattrFlags::empty())?;
    let mut after = Index::look(&tree, Users::Stand)?;
    let changes = after.since(&before, &HashSet::new());
    pass(&tree, &mut after, &changes, Users::Stand, &mut unpacker)?;
    assert_eq!(portraits(&to)?, portraits(&from)?);
    Ok(())
}

#[test]
fn what_comes_and_goes_while_it_is_sent_is_found_later() -> Outcome {
    let Some(place) = place() else { return Ok(()) };
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    fs::create_dir_all(from.join("folder/inner"))?;
    fs::create_dir(&to)?;
    fs::write(from.join("folder/inner/file"), b"file")?;
    age(&from)?;
    let tree = Tree::open(&from)?;
    let mut unpacker = Unpacker::new(&to)?;
    let mut before = Index::look(&tree, Users::Run)?;
    fs::rename(from.join("folder"), place.path().join("away"))?;
    let all = before.all();
    pass(&tree, &mut before, &all, Users::Run, &mut unpacker)?;
    fs::rename(place.path().join("away"), from.join("folder"))?;
    let mut after = Index::look(&tree, Users::Stand)?;
    let changes = after.since(&before, &HashSet::new());
    pass(&tree, &mut after, &changes, Users::Stand, &mut unpacker)?;
    assert_eq!(portraits(&to)?, portraits(&from)?);
    // Now nobody may.
    fs::remove_file(from.join("folder/inner/file"))?;
    let all = after.all();
    let error = tree.send(&mut after, &all, Users::Stand, Vec::new()).expect_err("it is gone");
    assert!(error.to_string().contains("/folder/inner/file changes"), "{error}");
    Ok(())
}

/// Streams of a peer that would like to write elsewhere.
#[test]
fn nothing_leaves_the_folder() -> Outcome {
    let Some(place) = place() else { return Ok(()) };
    let outside = place.path().join("outside");
    fs::create_dir(&outside)?;
    fs::write(outside.join("kept"), b"kept")?;
    let path = |name: &str| RelPath::parse(name.into()).expect("a good name");
    let entry = |name: &str, kind| Entry { path: path(name), kind, about: About::default() };
    let link = || entry("way", Kind::Symlink(outside.display().to_string().into_bytes()));
    let up = || entry("way", Kind::Symlink(b"../outside".to_vec()));
    for (number, entries) in [
        vec![link(), entry("way/x", Kind::Directory)],
        vec![link(), entry("way/x", Kind::Fifo)],
        vec![up(), entry("way/x", Kind::Socket)],
        vec![up(), entry("way/x", Kind::Regular)],
        vec![link(), entry("here", Kind::Link(path("way/kept")))],
        vec![
            link(),
            entry("x", Kind::Directory),
            entry("x/y", Kind::Fifo),
            entry("way/kept", Kind::Symlink(b"x".to_vec())),
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let to = place.path().join(format!("to-{number}"));
        fs::create_dir(&to)?;
        let mut stream = Vec::new();
        let mut writer = StreamWriter::new(&mut stream);
        entries.iter().try_for_each(|entry| writer.entry(entry))?;
        writer.finish()?;
        assert!(Unpacker::new(&to)?.unpack(&stream[..]).is_err(), "{entries:?}");
    }
    // What is behind a link is not removed, and a link is replaced and not followed.
    let to = place.path().join("to");
    fs::create_dir(&to)?;
    let mut stream = Vec::new();
    let mut writer = StreamWriter::new(&mut stream);
    for entry in [link(), Entry::gone(path("way/kept")), entry("way", Kind::Directory)] {
        writer.entry(&entry)?;
    }
    writer.entry(&link())?;
    writer.entry(&entry("way", Kind::Fifo))?;
    writer.finish()?;
    let mut unpacker = Unpacker::new(&to)?.remembering();
    unpacker.unpack(&stream[..])?;
    assert!(fs::symlink_metadata(to.join("way"))?.file_type().is_fifo());
    let names = HashMap::from([(path("way"), true), (path("way/kept"), false)]);
    assert_eq!(unpacker.names(), &names);
    assert_eq!(fs::read(outside.join("kept"))?, b"kept");
    assert_eq!(fs::read_dir(&outside)?.count(), 1);
    Ok(())
}
