//! A container of Podman moves into one like it on the other host, which has been stopped.

use std::error::Error;
use std::time::Duration;

use netns_tests::{Bundle, Criu, Lab, Migration, Runtime, qmig_binary, requirements};

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

fn moves(mode: &str) -> Outcome {
    if requirements::missing(&["podman", "conmon", "runc", "busybox"])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
    {
        return Ok(());
    }
    let Some(criu) = Criu::installed() else {
        let _ = requirements::skip("no CRIU here (netns-tests/install-criu.sh /opt/qmig-criu)");
        return Ok(());
    };
    let lab = Lab::two_hosts()?;
    let (mut src, mut dst) = (Runtime::podman(lab.src())?, Runtime::podman(lab.dst())?);
    let bundle = Bundle::make(&lab)?;
    let there = src.run(&bundle)?;
    let here = dst.run(&bundle)?;
    let migration = || -> Result<Migration<'_>, Box<dyn Error>> {
        let migration = Migration::new(&lab)?.deadline(SOON * 2).criu(&criu);
        let migration = migration.container(src.program(), &there).environment(&src.environment());
        let migration = migration.restore_arg("--podman").restore_arg(&here);
        Ok(migration.dump_arg("--mode").dump_arg(mode))
    };

    // The one over there runs: it would have to give way.
    let moved = migration()?.run(0)?;
    assert_eq!(moved.dumped().code(), Some(121), "{}", moved.logs());
    assert!(moved.logs().contains("it runs"), "{}", moved.logs());
    moved.restore().wait(SOON)?;

    dst.stop(&here)?;
    let before = src.wait_beats(&there, 20)?;
    let moved = migration()?.run(0)?;
    moved.succeeded()?;
    assert!(moved.restore().wait(SOON)?.success(), "{}", moved.logs());
    let (status, _) = dst.state(&here).ok_or("Podman does not know it")?;
    assert_eq!(status, "running");
    assert_eq!(src.state(&there).ok_or("it should still be known")?.0, "exited");
    let after = dst.wait_beats(&here, 2)?;
    assert!(after.number > before.number, "it began anew: {before:?}, {after:?}");
    assert_eq!(after.wrong, 0, "its memory changed");
    Ok(())
}

#[test]
fn by_stop_and_copy() -> Outcome {
    moves("stop")
}

#[test]
fn by_post_copy() -> Outcome {
    moves("post-copy")
}
