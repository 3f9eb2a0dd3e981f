//! `qmig-lab`: an experiment is run, goes on where it stopped, and yields all of its files.

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use netns_tests::{qmig_binary, requirements};

type Outcome = Result<(), Box<dyn Error>>;

const EXPERIMENT: &str = "
name = 'tiny'
repetitions = 2
ways = ['stop']
loads = ['writer mib 2 rate 5']
[[links]]
name = 'near, \"by\"'
words = 'lan'
[matrix]
rtt = ['2ms', '8ms']
loss = ['0%']
rate = ['200Mbit']
";

fn lab(words: &[&str]) -> Result<Output, Box<dyn Error>> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qmig-lab"));
    command.args(words).env("QMIG_BIN", qmig_binary()?);
    Ok(command.output()?)
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn an_experiment_from_its_file_to_its_page() -> Outcome {
    if requirements::missing(&[])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
    {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (file, out) = (folder.path().join("tiny.toml"), folder.path().join("out"));
    std::fs::write(&file, EXPERIMENT)?;
    let (file, out) = (file.to_string_lossy(), out.to_string_lossy());
    let records = || std::fs::read_to_string(Path::new(&*out).join("records.ndjson"));

    // A part of it, then the rest, then nothing is left.
    for (only, left, lines) in [("RTT 8ms", 2, 2), ("", 4, 6), ("", 0, 6)] {
        let ran = lab(&["run", &file, "--out", &out, only])?;
        let word = format!("{left} of them are left");
        assert!(ran.status.success() && said(&ran).contains(&word), "{}", said(&ran));
        assert_eq!(records()?.lines().count(), lines, "{}", said(&ran));
    }
    assert!(records()?.lines().all(|line| line.contains("\"error\":null")), "{}", records()?);
    let csv = std::fs::read_to_string(Path::new(&*out).join("records.csv"))?;
    assert!(csv.lines().count() == 7 && csv.contains("\"near, \"\"by\"\"\""), "{csv}");
    let page = std::fs::read_to_string(Path::new(&*out).join("index.html"))?;
    assert!(page.contains("<title>") && page.contains("\"name\":\"tiny\""));

    let same = lab(&["compare", &out, &out])?;
    assert!(said(&same).contains("\n0 of "), "{}", said(&same));
    let record: serde_json::Value = serde_json::from_str(records()?.lines().next().ok_or("none")?)?;
    assert_eq!((&record["congestion"], &record["seed"]), (&"delay".into(), &1.into()), "{record}");
    let sent = record.pointer("/lanes/bulk/sent_frames");
    assert_eq!(sent, record.pointer("/destination_lanes/bulk/received_frames"), "{record}");
    for number in [
        "/lanes/bulk/sent_bytes",
        "/lanes/bulk/sent_frames",
        "/up/packets",
        "/down/packets",
        "/source/peak_kib",
        "/destination/cpu_us",
        "/machine/mtu",
    ] {
        let number = record.pointer(number).and_then(serde_json::Value::as_u64);
        assert!(number.is_some_and(|number| number > 0), "{record}");
    }
    let wrong = lab(&["run", "/nonexistent/x.toml", "--out", &out])?;
    assert!(!wrong.status.success() && said(&wrong).contains("/nonexistent/x.toml"));
    Ok(())
}

/// What BENCHMARKS.md is made of is there beside it, as records of the same form and their page; done again,
/// a table's records are replaced.
#[test]
fn a_published_table_leaves_the_records_it_is_made_of() -> Outcome {
    if requirements::missing(&[])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
    {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    for _ in 0..2 {
        let mut bench = Command::new(env!("CARGO_BIN_EXE_qmig-bench"));
        bench.args(["--quick", "--out", "out", "hand-over"]).current_dir(folder.path());
        let ran = bench.env("QMIG_BIN", qmig_binary()?).output()?;
        assert!(ran.status.success() && said(&ran).contains("| veth | 64 MiB |"), "{}", said(&ran));
        let records = std::fs::read_to_string(folder.path().join("out/records.ndjson"))?;
        let of_it = records.lines().filter(|line| line.contains("\"table\":\"hand-over\""));
        assert_eq!((of_it.count(), records.lines().count()), (2, 2), "{records}");
    }
    let page = std::fs::read_to_string(folder.path().join("out/index.html"))?;
    assert!(page.contains("\"table\":\"hand-over\"") && page.contains("\"way\":\"post-copy\""));
    assert!(!folder.path().join("BENCHMARKS.md").exists(), "a quick one publishes nothing");
    Ok(())
}

/// A qmig whose second dump by post-copy hangs, and whose third fails.
const FRAIL: &str = "#!/bin/sh
case \"$*\" in *dump*post-copy*)
    echo dump >> \"$DUMPS\"
    case $(wc -l < \"$DUMPS\") in 2) exec sleep 1000 ;; 3) exit 1 ;; esac
esac
exec \"$REAL\" \"$@\"
";

/// Tables that are stopped half-way go on there; one that fails costs no other, and the exit code tells.
#[test]
fn published_tables_are_made_whatever_happens_to_one() -> Outcome {
    if requirements::missing(&[])
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
    {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let [frail, dumps, out] = ["frail", "dumps", "out"].map(|name| folder.path().join(name));
    std::fs::write(&frail, FRAIL)?;
    std::fs::set_permissions(&frail, PermissionsExt::from_mode(0o755))?;
    let mut bench = Command::new(env!("CARGO_BIN_EXE_qmig-bench"));
    bench.args(["--quick", "hand-over", "cost", "--out"]).arg(&out).current_dir(folder.path());
    bench.env("QMIG_BIN", &frail).env("REAL", qmig_binary()?).env("DUMPS", &dumps);
    bench.env("TMPDIR", folder.path()); // what a killed one leaves goes with the folder
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let of = |table: &str| {
        let named = format!("\"table\":\"{table}\"");
        let lines = text(&out.join("records.ndjson"));
        let of_it = lines.lines().filter(|line| line.contains(&named));
        of_it.map(str::to_owned).collect::<Vec<_>>()
    };

    let mut stopped = bench.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let end = Instant::now() + Duration::from_secs(60);
    while text(&dumps).lines().count() < 2 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    stopped.kill()?;
    stopped.wait()?;
    let first = of("hand-over");
    assert_eq!((first.len(), of("cost").len()), (1, 0));

    let failed = bench.stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
    let told = said(&failed);
    assert_eq!(failed.status.code(), Some(1), "{told}");
    for words in [
        "going on with what was stopped: 2 table(s)",
        "hand-over: FAILED, and keeps the figures it had",
        "table 2 of 2, trial 3; about 0 s left",
        "without hand-over; the same command again makes what is left",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!((of("hand-over").len(), of("cost").len()), (2, 3), "{told}");

    let last = bench.output()?;
    assert!(last.status.success(), "{}", said(&last));
    assert!(said(&last).contains("going on with what was stopped: 1 table(s)"), "{}", said(&last));
    let of_both = (of("hand-over"), of("cost").len());
    assert_eq!((of_both.0.len(), of_both.1, &of_both.0[0]), (2, 3, &first[0]));
    assert!(of_both.0.iter().all(|line| line.contains("\"error\":null")));
    let page = text(&out.join("index.html"));
    assert!(page.contains("\"table\":\"hand-over\"") && page.contains("\"table\":\"cost\""));
    Ok(())
}
