//! Root file systems go along with containers of runc and crun.

use std::error::Error;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use netns_tests::chaos::{Action, Fault};
use netns_tests::{Boxed, Bundle, Criu, Lab, Moved, Side};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);
const REFUSED: Option<i32> = Some(121);

/// More than a copy by name and content would keep.
fn furnish(root: &Path) -> Outcome {
    let at = |name: &str| root.join(name);
    std::fs::create_dir_all(at("data/inner"))?;
    std::fs::write(at("data/large"), vec![9; 8 << 20])?;
    std::fs::hard_link(at("data/large"), at("data/inner/again"))?;
    std::fs::write(at("data/goes"), b"goes")?;
    std::os::unix::fs::symlink("/etc/passwd", at("data/out"))?;
    std::os::unix::fs::chown(at("data/inner"), Some(1234), Some(4321))?;
    std::fs::set_permissions(at("bin/busybox"), std::fs::Permissions::from_mode(0o4755))?;
    std::fs::File::create(at("data/sparse"))?.set_len(1 << 30)?;
    Ok(())
}

/// All of its files, with what can be told of them: a line each.
fn listing(root: &Path) -> Result<String, Box<dyn Error>> {
    let mut find = Command::new("find");
    find.arg(root).args(["-mindepth", "1", "-printf", "%P %y %m %U %G %T@ %n %l"]);
    find.args(["(", "-type", "d", "-printf", "\n", "-o", "-printf", " %s\n", ")"]);
    let output = find.output()?;
    let mut lines: Vec<_> = std::str::from_utf8(&output.stdout)?.lines().collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

/// With what the container writes there until it is stopped, and goes on writing.
fn moves(runtime: &str, mode: &str) -> Outcome {
    let Some(criu) = Criu::for_containers(&["runc"]) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let bundle = Bundle::with_journal(&lab)?;
    furnish(&bundle.root())?;
    let boxed = Boxed::start(&lab, &criu, runtime, &bundle)?;
    let Boxed { src, dst, there, here, .. } = &boxed;
    src.exec(there, &["sh", "-c", "echo changed >/data/inner/new; exec rm /data/goes"])?;

    let empty = Bundle::empty(&lab)?;
    let moved = boxed.migration(&empty)?.dump_arg("--with-rootfs").dump_arg("--mode");
    let moved = moved.dump_arg(mode).run(0)?;
    moved.succeeded()?;
    assert!(moved.restore().wait(SOON)?.success(), "{}", moved.logs());
    let beat = dst.wait_beats(here, 2)?;
    assert_eq!(beat.wrong, 0, "its memory changed");
    // Every beat is there, those before the move among them.
    let journal = std::fs::read_to_string(empty.root().join("journal"))?;
    let numbers: Vec<u64> = journal.lines().map(str::parse).collect::<Result<_, _>>()?;
    let all: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert!(numbers == all && numbers.len() as u64 >= beat.number, "{numbers:?}");
    let [before, after] = [bundle.root(), empty.root()].map(|root| listing(&root));
    let plain = |text: String| {
        let lines = text.lines().filter(|line| !line.starts_with("journal "));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(plain(after?), plain(before?));
    assert_eq!(std::fs::metadata(empty.root().join("data/sparse"))?.len(), 1 << 30);
    let left = std::fs::read_dir(empty.folder())?.map(|entry| Ok(entry?.file_name()));
    let left: Result<Vec<_>, std::io::Error> = left.collect();
    assert_eq!(left?.len(), 2, "beside the root file system and the configuration");
    let files = moved.event(Side::Source, "files").ok_or("nothing was told of files")?;
    let bytes = files.field("bytes").as_u64().ok_or("no number of bytes")?;
    assert!((8 << 20..64 << 20).contains(&bytes), "{bytes} bytes: twice, or holes");
    Ok(())
}

#[test]
fn of_runc_by_stop_and_copy() -> Outcome {
    moves("runc", "stop")
}

#[test]
fn of_runc_by_post_copy() -> Outcome {
    moves("runc", "post-copy")
}

#[test]
fn of_crun_by_stop_and_copy() -> Outcome {
    moves("crun", "stop")
}

/// The container goes on where it is, and nothing is left here but what was there.
fn stays(moved: &Moved, boxed: &Boxed<'_>, bundle: &Bundle) -> Outcome {
    assert!(!moved.dumped().success(), "{}", moved.logs());
    moved.restore().wait(SOON)?;
    assert_eq!(boxed.src.wait_beats(&boxed.there, 2)?.wrong, 0);
    assert_eq!(boxed.src.state(&boxed.there).ok_or("its runtime lost it")?.0, "running");
    for entry in std::fs::read_dir(bundle.folder())? {
        let entry = entry?;
        let is_empty = std::fs::read_dir(entry.path()).is_ok_and(|mut all| all.next().is_none());
        assert!(is_empty, "{} is left\n{}", entry.path().display(), moved.logs());
    }
    Ok(())
}

/// No room, a failure at either end, a death: the container goes on, and can be moved afterwards.
#[test]
fn what_fails_leaves_the_container_where_it_is() -> Outcome {
    let Some(criu) = Criu::for_containers(&["runc"]) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let bundle = Bundle::with_journal(&lab)?;
    furnish(&bundle.root())?;
    let boxed = Boxed::start(&lab, &criu, "runc", &bundle)?;
    let empty = Bundle::empty(&lab)?;
    let migration = || -> Result<_, Box<dyn Error>> {
        let migration = boxed.migration(&empty)?.dump_arg("--with-rootfs");
        let migration = migration.dump_arg("--connect-timeout").dump_arg("1s");
        Ok(migration.restore_arg("--grace").restore_arg("1s"))
    };

    std::fs::create_dir(empty.root())?;
    let mut small = Command::new("mount");
    small.args(["-t", "tmpfs", "-o", "size=4m", "small"]).arg(empty.root());
    lab.dst().run(small)?;
    let moved = migration()?.run(0)?;
    stays(&moved, &boxed, &empty)?;
    assert!(moved.logs().contains("No space left on device"), "{}", moved.logs());
    let mut umount = Command::new("umount");
    umount.arg(empty.root());
    lab.dst().run(umount)?;

    for fault in [
        Fault::new(Side::Source, "files", Action::Fail),
        Fault::new(Side::Destination, "building", Action::Fail),
    ] {
        let moved = migration()?.fault(fault).run(0)?;
        stays(&moved, &boxed, &empty)?;
    }
    let fault = Fault::new(Side::Destination, "files", Action::Kill);
    let moved = migration()?.fault(fault).run(0)?;
    assert!(!moved.dumped().success(), "{}", moved.logs());
    assert!(empty.root().join("bin").is_dir(), "it died too early");
    // What it left is known to be nobody's.
    let moved = migration()?.run(0)?;
    moved.succeeded()?;
    assert_eq!(boxed.dst.wait_beats(&boxed.here, 2)?.wrong, 0);
    Ok(())
}

#[test]
fn what_is_there_is_not_touched() -> Outcome {
    let Some(criu) = Criu::for_containers(&["runc"]) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let bundle = Bundle::make(&lab)?;
    let boxed = Boxed::start(&lab, &criu, "runc", &bundle)?;
    let other = Bundle::make(&lab)?;
    let before = listing(&other.root())?;
    let moved = boxed.migration(&other)?.dump_arg("--with-rootfs").run(0)?;
    assert_eq!(moved.dumped().code(), REFUSED, "{}", moved.logs());
    moved.restore().wait(SOON)?;
    assert!(moved.logs().contains("it is not empty"), "{}", moved.logs());
    assert_eq!(listing(&other.root())?, before);
    assert_eq!(boxed.src.wait_beats(&boxed.there, 1)?.wrong, 0);
    Ok(())
}
