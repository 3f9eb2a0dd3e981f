//! The page of an experiment in a real browser: every plot is drawn, nothing goes wrong, nothing is wider
//! than a phone, and it is light or dark as the reader wishes.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use netns_tests::experiment::{LaneUse, LinkUse, Machine, Phase, Record, Requests, Waits};
use netns_tests::requirements;
use serde_json::{Value, json};

type Outcome = Result<(), Box<dyn Error>>;

/// The one is the other without windows.
const BROWSERS: [&str; 2] = ["chromium-headless-shell", "chromium"];

/// What the page is asked once it is drawn.
const QUESTIONS: &str = include_str!("lab_page.js");

fn record(way: &str, (name, link): (&str, &str), repetition: u32) -> Record {
    let lazy = way.contains("post-copy") || way.contains("lazy") || way == "hybrid";
    let n = u64::from(repetition + 1) * 1000 + way.len() as u64 * 137 + link.len() as u64 * 711;
    let mut record = Record {
        way: way.to_owned(),
        link: link.to_owned(),
        link_name: name.to_owned(),
        load: "toucher mib 8 threads 1 random 100".to_owned(),
        repetition,
        felt_us: n * 9,
        running_us: n * 12,
        total_us: n * 40,
        up: LinkUse { bytes: 9_000_000, packets: 7000, lateness_us: 80.0, ..LinkUse::default() },
        machine: Machine { cpu: "2 × of a test".into(), mtu: 1500, ..Machine::default() },
        ..Record::default()
    };
    if !way.contains("criu") {
        record.downtime_us = n * 9;
        record.parts = ["freeze", "images", "pages", "restore"]
            .iter()
            .zip(1..)
            .map(|(part, share)| ((*part).to_owned(), n * share))
            .collect();
    }
    if !way.contains("criu") {
        let lane = LaneUse { sent: n * 999, sent_frames: n, received: 0, received_frames: 0 };
        record.lanes = [("bulk".to_owned(), lane), ("control".to_owned(), lane)].into();
    }
    let names = ["plan", "round 1", "round 2", "freeze", "state and pages", "hand-over"];
    record.phases = names
        .iter()
        .zip(0..)
        .map(|(name, at)| Phase {
            name: (*name).to_owned(),
            from_us: n * 2 * at,
            to_us: n * 2 * (at + 1),
        })
        .collect();
    if name == "no delay" {
        record.load = "kv mib 8 clients 4 rate 250".to_owned();
        record.requests = Requests {
            count: 300,
            p50_us: n / 4,
            p99_us: n * 8,
            max_us: n * 9,
            silence_us: n * 9,
            bucket_us: 5000,
            points: (-60..60_i64).map(|at| (at * 5000, 5, 200, 400 + at.unsigned_abs())).collect(),
        };
    }
    if lazy {
        record.waits = Waits {
            count: 200,
            p50_us: n * 2,
            p90_us: n * 3,
            p99_us: n * 5,
            max_us: n * 6,
            quantiles_us: (0..=100).map(|percent| n + percent * n / 20).collect(),
            points: (0..60_u32)
                .map(|at| (i64::from(at) * 9, n * 2 + u64::from(at % 7) * n / 3))
                .collect(),
            ..Waits::default()
        };
        (record.fill_bps, record.fill_share) = (6e7, Some(0.6));
    }
    if way == "pre-copy" || way == "hybrid" {
        record.rounds = (1..=3)
            .map(|n| json!({ "n": n, "pages": 4000 / n, "dirty_pages": 900 / n, "predicted_downtime_us": 90_000 / n }))
            .collect();
    }
    record
}

/// A page with every kind of plot on it.
fn page(folder: &Path) -> Result<(PathBuf, usize), Box<dyn Error>> {
    let mut links =
        vec![("no delay".to_owned(), "veth".to_owned()), ("lte".to_owned(), "lte".to_owned())];
    for rtt in ["10ms", "50ms", "100ms", "150ms"] {
        for loss in ["0%", "0.1%", "1%", "3%"] {
            links.push((
                format!("100Mbit, RTT {rtt}, loss {loss}"),
                format!("rate=100Mbit rtt={rtt} loss={loss}"),
            ));
        }
    }
    let mut lines = String::new();
    for (name, link) in &links {
        for way in [
            "stop",
            "pre-copy",
            "post-copy",
            "hybrid",
            "post-copy-plain",
            "criu-stop-tls",
            "criu-lazy-tls",
        ] {
            for repetition in 0..2 {
                lines += &serde_json::to_string(&record(way, (name, link), repetition))?;
                lines.push('\n');
            }
        }
    }
    let mut far = record("post-copy", ("a to b", "pair"), 0);
    far.destination_machine = Some(Machine { cpu: "4 × of another".into(), ..Machine::default() });
    let failed =
        Record { error: Some("end well".to_owned()), way: "stop".into(), ..Record::default() };
    lines += &format!("{}\n{}", serde_json::to_string(&failed)?, serde_json::to_string(&far)?);
    std::fs::write(folder.join("records.ndjson"), &lines)?;
    let made = Command::new(env!("CARGO_BIN_EXE_qmig-lab")).arg("page").arg(folder).output()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok((folder.join("index.html"), lines.lines().count()))
}

/// The browser, without its sandbox: that wants to be no root, and all it shows is our own.
fn browse(
    browser: &Path,
    folder: &Path,
    words: &[String],
    page: &Path,
) -> Result<Output, Box<dyn Error>> {
    let mut command = Command::new("timeout");
    command.arg("120").arg(browser).args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
    ]);
    command
        .arg("--disable-dev-shm-usage")
        .arg(format!("--user-data-dir={}", folder.join("profile").display()));
    let output = command
        .args(words)
        .arg(format!("file://{}", page.display()))
        .env("HOME", folder)
        .output()?;
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// What the page answers in a frame of this width: windows of a browser have a least width.
fn ask(browser: &Path, folder: &Path, page: &Path, width: u32) -> Result<Value, Box<dyn Error>> {
    let (asking, around) = (folder.join("asking.html"), folder.join("around.html"));
    const FIRST: &str =
        "<script>const errors = []; onerror = text => { errors.push(text); };</script>";
    let text = std::fs::read_to_string(page)?
        .replacen("<head>", &format!("<head>{FIRST}"), 1)
        .replacen("</body>", &format!("<script>{QUESTIONS}</script></body>"), 1);
    std::fs::write(&asking, text)?;
    let frame = format!(
        "<script>onmessage = said => {{ document.documentElement.dataset.seen = said.data; }};</script>\
         <iframe src=asking.html width={width} height=900 style='border: 0'></iframe>"
    );
    std::fs::write(&around, frame)?;
    let words = ["--window-size=1400,1000".to_owned(), "--dump-dom".to_owned()];
    let output = browse(browser, folder, &words, &around)?;
    let dom = String::from_utf8_lossy(&output.stdout);
    let (_, seen) =
        dom.split_once("data-seen=\"").ok_or_else(|| format!("not drawn: {dom:.300}"))?;
    let (seen, _) = seen.split_once('"').ok_or("no end")?;
    Ok(serde_json::from_str(&seen.replace("&quot;", "\"").replace("&amp;", "&"))?)
}

/// A picture: how light its background is, and the share of the rest.
fn picture(
    browser: &Path,
    folder: &Path,
    page: &Path,
    (width, dark): (u32, bool),
) -> Result<(u8, f64), Box<dyn Error>> {
    let name = folder.join(format!("{width}-{}.png", if dark { "dark" } else { "light" }));
    let words = [
        format!("--window-size={width},2400"),
        format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)),
        format!("--screenshot={}", name.display()),
    ];
    browse(browser, folder, &words, page)?;
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&name)?)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("a picture too large")?];
    let frame = reader.next_frame(&mut pixels)?;
    assert_eq!(frame.width, width);
    let each = frame.color_type.samples();
    let background = pixels[..each].to_vec();
    let all = pixels.chunks_exact(each);
    let (count, other) = (all.len(), all.filter(|pixel| *pixel != background).count());
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    Ok((background[0], other as f64 / count as f64))
}

#[test]
fn every_plot_is_drawn_for_desks_and_phones_by_day_and_night() -> Outcome {
    let found = BROWSERS.iter().find_map(|name| requirements::which(name));
    let Some(browser) = found else {
        let _ = requirements::skip("chromium-headless-shell is not installed");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let (page, trials) = page(folder.path())?;
    for width in [1280, 390] {
        let seen = ask(&browser, folder.path(), &page, width)?;
        println!("{width}: {seen}");
        let is = |name: &str, expected: Value| {
            assert_eq!(seen[name], expected, "{name} at {width}: {seen}")
        };
        is("errors", json!([]));
        let about = seen["about"].as_str().unwrap_or_default();
        assert!(about.contains("The destination is another machine: 4 × of another"), "{about}");
        is("width", json!(width));
        is("scrolls", json!(width));
        is("plots", json!(8));
        is("tables", json!(9));
        is("trials", json!(trials));
        is("nonsense", json!(0));
        is("shrunk", json!(0));
        is("cut", json!([]));
        assert!(seen["shapes"].as_u64() > Some(60), "{seen}");
        for dark in [false, true] {
            let (background, other) = picture(&browser, folder.path(), &page, (width, dark))?;
            assert_eq!(background < 60, dark, "background {background} at {width}");
            assert!(other > 0.05, "nearly blank at {width}: {other}");
        }
    }
    if let Some(keep) = std::env::var_os("QMIG_LAB_PICTURES") {
        for entry in std::fs::read_dir(folder.path())?.flatten() {
            if entry.path().extension().is_some_and(|end| end == "png") {
                std::fs::copy(entry.path(), Path::new(&keep).join(entry.file_name()))?;
            }
        }
    }
    Ok(())
}
