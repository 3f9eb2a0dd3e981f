//! A container of Podman moves into one like it on the other host, which has been stopped.

use std::error::Error;
use std::time::Duration;

use netns_tests::{Bundle, Criu, Lab, Migration, Runtime};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const NEEDED: [&str; 3] = ["podman", "conmon", "runc"];
const SOON: Duration = Duration::from_secs(60);

fn moves(mode: &str) -> Outcome {
    let Some(criu) = Criu::for_containers(&NEEDED) else { return Ok(()) };
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

/// Of an image that both have: what the container has changed in it goes along.
#[test]
fn its_changed_files_go_along() -> Outcome {
    let Some(criu) = Criu::for_containers(&NEEDED) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let (mut src, mut dst) = (Runtime::podman(lab.src())?, Runtime::podman(lab.dst())?);
    let bundle = Bundle::make(&lab)?;
    for name in ["changes", "goes", "stays", "changes-there"] {
        std::fs::write(bundle.root().join(name), name)?;
    }
    let image = src.image_for(&[&dst], &bundle)?;
    let there = src.run_image(&image)?;
    let here = dst.run_image(&image)?;
    src.exec(&there, &["sh", "-c", "echo changed >/changes; echo new >/new; exec rm /goes"])?;
    dst.exec(&here, &["sh", "-c", "echo other >/changes; echo only here >/of-here"])?;
    dst.stop(&here)?;
    let migration = || -> Result<Migration<'_>, Box<dyn Error>> {
        let migration = Migration::new(&lab)?.deadline(SOON * 2).criu(&criu);
        let migration = migration.container(src.program(), &there).environment(&src.environment());
        Ok(migration.restore_arg("--podman").restore_arg(&here))
    };

    // A bundle's root file system is not Podman's.
    let moved = migration()?.dump_arg("--with-rootfs").run(0)?;
    assert_eq!(moved.dumped().code(), Some(2), "{}", moved.logs());
    lab.dst().signal(moved.restore().pid(), Signal::SIGTERM)?;
    moved.restore().wait(SOON)?;

    let moved = migration()?.run(0)?;
    moved.succeeded()?;
    assert!(moved.restore().wait(SOON)?.success(), "{}", moved.logs());
    let beat = dst.wait_beats(&here, 2)?;
    assert_eq!(beat.wrong, 0, "its memory changed");
    let journal = dst.exec(&here, &["cat", "/journal"])?;
    let numbers: Vec<u64> = journal.lines().map(str::parse).collect::<Result<_, _>>()?;
    assert!(numbers.iter().zip(1..).all(|(number, due)| *number == due), "{numbers:?}");
    assert!(numbers.len() as u64 >= beat.number, "{numbers:?}, {beat:?}");
    for (name, content) in [("changes", "changed\n"), ("new", "new\n"), ("stays", "stays")] {
        assert_eq!(dst.exec(&here, &["cat", name])?, content);
    }
    for name in ["goes", "of-here"] {
        assert!(dst.exec(&here, &["cat", name]).is_err(), "{name} is there");
    }
    Ok(())
}

/// With the addresses that it had, which nobody over there has, on interfaces of the names that they had;
/// the one like it must be in the same networks.
fn its_addresses_go_along(networks: &str, twice: bool) -> Outcome {
    let Some(criu) = Criu::for_containers(&[&NEEDED[..], &["iptables"]].concat()) else {
        return Ok(());
    };
    let lab = Lab::two_hosts()?;
    let (mut src, mut dst) = (Runtime::podman(lab.src())?, Runtime::podman(lab.dst())?);
    let bundle = Bundle::make(&lab)?;
    let apart = dst.run(&bundle)?;
    dst.stop(&apart)?;
    for runtime in [&mut src, &mut dst] {
        if twice { runtime.networked_twice()? } else { runtime.networked()? }
    }
    let (first, there) = (src.run(&bundle)?, src.run(&bundle)?);
    let here = dst.run(&bundle)?;
    dst.stop(&here)?;
    let had = addresses(&src, &there)?;
    // Two of each interface, and one of the second kind.
    assert_eq!(had.len(), if twice { 5 } else { 2 }, "{had:?}");
    assert!(had.iter().any(|address| address.ends_with(" 10.88.0.3/16")), "{had:?}");
    assert!(addresses(&src, &first)?.iter().all(|address| !had.contains(address)), "{had:?}");
    let migration = |here: &str| -> Result<Migration<'_>, Box<dyn Error>> {
        let migration = Migration::new(&lab)?.deadline(SOON * 2).criu(&criu);
        let migration = migration.container(src.program(), &there).environment(&src.environment());
        Ok(migration.restore_arg("--podman").restore_arg(here))
    };
    let moved = migration(&apart)?.run(0)?;
    assert_eq!(moved.dumped().code(), Some(121), "{}", moved.logs());
    assert!(
        moved.logs().contains(&format!("it is not in {networks}, and no other")),
        "{}",
        moved.logs()
    );
    moved.restore().wait(SOON)?;

    let before = src.wait_beats(&there, 2)?;
    let moved = migration(&here)?.run(0)?;
    moved.succeeded()?;
    assert!(moved.restore().wait(SOON)?.success(), "{}", moved.logs());
    let after = dst.wait_beats(&here, 2)?;
    assert!(after.number > before.number && after.wrong == 0, "{before:?}, {after:?}");
    assert_eq!(addresses(&dst, &here)?, had);
    Ok(())
}

/// What the interfaces of a container that lead outside have: their names, addresses on the link, and
/// addresses that Podman gave.
fn addresses(runtime: &Runtime<'_>, id: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let told = runtime.exec(id, &["ip", "addr", "show"])?;
    let (mut name, mut all) = ("", Vec::new());
    for line in told.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, called, ..] if !line.starts_with(' ') => {
                name = called.split(['@', ':']).next().unwrap_or_default();
            }
            ["inet6", address, "scope", "link", ..] if !address.is_empty() => {}
            ["inet" | "inet6" | "link/ether", address, ..] if name != "lo" => {
                all.push(format!("{name} {address}"));
            }
            _ => {}
        }
    }
    all.sort();
    Ok(all)
}

#[test]
fn its_address_goes_along() -> Outcome {
    its_addresses_go_along("network \"podman\"", false)
}

#[test]
fn its_addresses_in_two_networks_go_along() -> Outcome {
    its_addresses_go_along("networks \"back\" and \"podman\"", true)
}

/// Podman's monitor over there has its other end then.
fn keeps_its_terminal(mode: &str) -> Outcome {
    let Some(criu) = Criu::for_containers(&NEEDED) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let (mut src, mut dst) = (Runtime::podman(lab.src())?, Runtime::podman(lab.dst())?);
    let bundle = Bundle::make(&lab)?;
    let there = src.run_with_terminal(&bundle)?;
    let here = dst.run_with_terminal(&bundle)?;
    let without = dst.run(&bundle)?;
    [&here, &without].into_iter().try_for_each(|id| dst.stop(id))?;
    src.type_line(&there, "here", "1 here")?;
    let migration = |here: &str| -> Result<Migration<'_>, Box<dyn Error>> {
        let migration = Migration::new(&lab)?.deadline(SOON * 2).criu(&criu);
        let migration = migration.container(src.program(), &there).environment(&src.environment());
        let migration = migration.restore_arg("--podman").restore_arg(here);
        Ok(migration.dump_arg("--mode").dump_arg(mode))
    };

    let refused = migration(&without)?.run(0)?;
    assert_eq!(refused.dumped().code(), Some(121), "{}", refused.logs());
    assert!(refused.logs().contains("it has no terminal here"), "{}", refused.logs());
    refused.restore().wait(SOON)?;
    src.type_line(&there, "still here", "2 still here")?;

    let moved = migration(&here)?.run(0)?;
    moved.succeeded()?;
    assert!(moved.restore().wait(SOON)?.success(), "{}", moved.logs());
    assert_eq!(src.state(&there).ok_or("it should still be known")?.0, "exited");
    dst.type_line(&here, "there", "3 there")?;
    assert!(dst.logs(&here)?.contains("3 there"), "{:?}", dst.logs(&here));
    assert_eq!(dst.wait_beats(&here, 2)?.wrong, 0);
    Ok(())
}

#[test]
fn its_terminal_goes_along_by_stop_and_copy() -> Outcome {
    keeps_its_terminal("stop")
}

#[test]
fn its_terminal_goes_along_by_post_copy() -> Outcome {
    keeps_its_terminal("post-copy")
}

/// Made of other images, or with what cannot be made like the other: refused, or given up, by name.
#[test]
fn what_differs_is_told() -> Outcome {
    let Some(criu) = Criu::for_containers(&NEEDED) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let (mut src, mut dst) = (Runtime::podman(lab.src())?, Runtime::podman(lab.dst())?);
    let bundle = Bundle::make(&lab)?;
    std::fs::write(bundle.root().join("known"), b"known")?;
    let image = src.image_for(&[&dst], &bundle)?;
    let there = src.run_image(&image)?;
    let plain = dst.run(&bundle)?;
    dst.stop(&plain)?;
    let changed = dst.run_image(&image)?;
    dst.exec(&changed, &["sh", "-c", "echo unknown >/known"])?;
    dst.stop(&changed)?;
    for (here, code, why) in [
        (&plain, Some(121), "it is made of image"),
        (&changed, Some(122), "/known is not as in the image here"),
    ] {
        let migration = Migration::new(&lab)?.deadline(SOON * 2).criu(&criu);
        let migration = migration.container(src.program(), &there).environment(&src.environment());
        let moved = migration.restore_arg("--podman").restore_arg(here).run(0)?;
        assert_eq!(moved.dumped().code(), code, "{}", moved.logs());
        assert!(moved.logs().contains(why), "{}", moved.logs());
        moved.restore().wait(SOON)?;
        assert_eq!(src.wait_beats(&there, 2)?.wrong, 0);
    }
    Ok(())
}

/// What it has in common with another container it would not have over there.
#[test]
fn one_that_shares_with_others_is_refused() -> Outcome {
    let Some(criu) = Criu::for_containers(&NEEDED) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let (mut src, mut dst) = (Runtime::podman(lab.src())?, Runtime::podman(lab.dst())?);
    let bundle = Bundle::make(&lab)?;
    let first = src.run(&bundle)?;
    let here = dst.run(&bundle)?;
    dst.stop(&here)?;
    for kind in ["ipc", "pid", "uts", "network"] {
        let (option, other) = (format!("--{kind}"), format!("container:{first}"));
        let there = src.run_with(&bundle, &[&option, &other])?;
        let migration = Migration::new(&lab)?.deadline(SOON * 2).criu(&criu);
        let migration = migration.container(src.program(), &there).environment(&src.environment());
        let moved = migration.restore_arg("--podman").restore_arg(&here).run(0)?;
        assert_eq!(moved.dumped().code(), Some(121), "{kind}: {}", moved.logs());
        let object =
            if kind == "network" { "network container:" } else { "namespace: it has that" };
        assert!(moved.logs().contains(object), "{kind}: {}", moved.logs());
        lab.dst().signal(moved.restore().pid(), Signal::SIGTERM)?;
        moved.restore().wait(SOON)?;
        assert_eq!(src.wait_beats(&there, 2)?.wrong, 0);
    }
    Ok(())
}

/// It cannot become the one that is unlike it, in these words, and becomes the one that is like it.
fn refused_then_moved(
    (lab, criu): (&Lab, &Criu),
    (src, there): (&Runtime<'_>, &str),
    [unlike, like]: [&str; 2],
    words: &str,
) -> Outcome {
    for (here, code, words) in [(unlike, Some(121), words), (like, Some(0), "")] {
        let migration = Migration::new(lab)?.deadline(SOON * 2).criu(criu);
        let migration = migration.container(src.program(), there).environment(&src.environment());
        let moved = migration.restore_arg("--podman").restore_arg(here).run(0)?;
        assert_eq!(moved.dumped().code(), code, "{}", moved.logs());
        assert!(moved.logs().contains(words), "{}", moved.logs());
        moved.restore().wait(SOON)?;
    }
    Ok(())
}

/// Volumes stay where they are; the one like it must have them too.
#[test]
fn its_volumes_are_those_over_there() -> Outcome {
    let Some(criu) = Criu::for_containers(&NEEDED) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let (mut src, mut dst) = (Runtime::podman(lab.src())?, Runtime::podman(lab.dst())?);
    let bundle = Bundle::make(&lab)?;
    let without = dst.run(&bundle)?;
    let [there, here] =
        [&mut src, &mut dst].map(|on| on.run_with(&bundle, &["--volume", "data:/data"]));
    let (there, here) = (there?, here?);
    src.exec(&there, &["sh", "-c", "echo there >/data/told"])?;
    dst.exec(&here, &["sh", "-c", "echo here >/data/told"])?;
    [&here, &without].into_iter().try_for_each(|id| dst.stop(id))?;
    refused_then_moved(
        (&lab, &criu),
        (&src, &there),
        [&without, &here],
        "nothing is mounted at /data here",
    )?;
    assert_eq!(dst.wait_beats(&here, 2)?.wrong, 0);
    assert_eq!(dst.exec(&here, &["cat", "/data/told"])?, "here\n");
    Ok(())
}

/// Standard input that is kept open stays so; without it a program would see its end.
#[test]
fn its_standard_input_stays_open() -> Outcome {
    let Some(criu) = Criu::for_containers(&NEEDED) else { return Ok(()) };
    let lab = Lab::two_hosts()?;
    let (mut src, mut dst) = (Runtime::podman(lab.src())?, Runtime::podman(lab.dst())?);
    let bundle = Bundle::make(&lab)?;
    let there = src.run_with(&bundle, &["--interactive"])?;
    let (without, here) = (dst.run(&bundle)?, dst.run_with(&bundle, &["--interactive"])?);
    [&here, &without].into_iter().try_for_each(|id| dst.stop(id))?;
    refused_then_moved(
        (&lab, &criu),
        (&src, &there),
        [&without, &here],
        "its standard input is not kept open here",
    )?;
    assert_eq!(dst.wait_beats(&here, 2)?.wrong, 0);
    let input = dst.exec(&here, &["/bin/busybox", "readlink", "/proc/1/fd/0"])?;
    assert!(input.starts_with("pipe:"), "{input}");
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
