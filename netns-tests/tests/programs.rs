//! Real programs move: start, move, ask. `QMIG_TEST_REPEAT=20` does each twenty times in a row.

use std::error::Error;
use std::time::{Duration, Instant};

use netns_tests::programs::{Etcd, Nginx, Pipeline, Postgres, Redis, Tmux, Transaction, counted};
use netns_tests::{
    Lab, Migration, Moved, Side, Subject, in_session, qmig_binary, requirements, rounds,
};
use nix::sys::signal::Signal;

type Outcome = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);
/// The pid of what moves: free on the other host.
const PID: i32 = 10_000;

/// Whether this test cannot run.
fn missing(programs: &[&str]) -> bool {
    requirements::missing(programs)
        || qmig_binary().err().is_some_and(|error| requirements::skip(&error.to_string()))
}

/// The restored tree has ended, and `qmig restore` with it and with its status.
fn ended_well(moved: &Moved) -> Outcome {
    let status = moved.restore().wait(SOON)?;
    // Its last words may still be on their way to us.
    moved.restore().stdout().wait_end(SOON);
    let said = moved.event(Side::Destination, "exited").map(|event| event.field("status").clone());
    if status.success() && said == Some(0.into()) {
        return Ok(());
    }
    Err(format!("qmig restore: {status}, event exited: {said:?}\n{}", moved.logs()).into())
}

/// Move a subject and let it judge itself.
fn judged(lab: &Lab, subject: &Subject, mode: &str) -> Outcome {
    let started = subject.start(lab, lab.src())?;
    let migration = Migration::new(lab)?.dump_arg("--mode").dump_arg(mode);
    let moved = migration.dump_arg("--max-downtime").dump_arg("10s").run(started.pid())?;
    moved.succeeded()?;
    let verdict = moved.ask(lab, &started)?;
    started.running().wait(SOON)?;
    if verdict.passed() { Ok(()) } else { Err(format!("{verdict}\n{}", moved.logs()).into()) }
}

#[test]
fn redis_with_a_busy_client() -> Outcome {
    if missing(&["redis-server", "redis-cli"]) {
        return Ok(());
    }
    rounds(|lab| {
        let (src, dst) = (lab.src(), lab.dst());
        let redis = Redis::start(lab, src, PID)?;
        redis.fill(src, 200_000)?;
        assert_eq!(redis.ask(src, src, &["DBSIZE"])?, "200000");
        let digest = redis.ask(src, src, &["DEBUG", "DIGEST"])?;
        let run = redis.info(src, src, "run_id")?;
        let uptime: u64 = redis.info(src, src, "uptime_in_seconds")?.parse()?;
        let client = redis.busy(dst, src, 0)?;

        let moved = Migration::new(lab)?.dump_arg("--tcp-close").run(redis.pid())?;
        moved.succeeded()?;
        redis.running().wait(SOON)?;

        // Everything acknowledged is there, and at most the one command that was on its way.
        let acknowledged = client.acknowledged()?;
        let hits = redis.hits(src, dst)?;
        assert!(
            (acknowledged..=acknowledged + 1).contains(&hits),
            "{acknowledged} hits, now {hits}"
        );
        let client = redis.busy(src, dst, hits)?;
        let more = client.acknowledged()?;
        assert!(more >= hits + 10 && redis.hits(dst, dst)? >= more, "{hits}, then {more}");
        redis.forget_hits(dst, dst)?;
        assert_eq!(redis.ask(src, dst, &["DBSIZE"])?, "200000");
        assert_eq!(redis.ask(src, dst, &["DEBUG", "DIGEST"])?, digest);

        // It is the same server, its clock goes on, and it still keeps what it is told.
        assert_eq!(redis.info(src, dst, "run_id")?, run);
        assert!(redis.info(src, dst, "uptime_in_seconds")?.parse::<u64>()? >= uptime);
        assert_eq!(redis.ask(src, dst, &["SET", "key:00000000", "new"])?, "OK");
        assert_eq!(redis.ask(src, dst, &["SAVE"])?, "OK");
        assert_eq!(redis.info(src, dst, "aof_last_write_status")?, "ok");
        redis.ask(src, dst, &["DEBUG", "RELOAD"])?;
        assert_eq!(redis.ask(src, dst, &["GET", "key:00000000"])?, "new");
        redis.ask(src, dst, &["SHUTDOWN", "NOSAVE"]).or_else(tolerate_goodbye)?;
        ended_well(&moved)
    })
}

/// redis-benchmark rewrites one data base without pause while the other crosses in rounds, whose keys
/// have a checksum.
#[test]
fn redis_in_rounds_under_load() -> Outcome {
    if missing(&["redis-server", "redis-cli", "redis-benchmark"]) {
        return Ok(());
    }
    for (mode, goal) in [("pre-copy", "5s"), ("hybrid", "1ms")] {
        let lab = Lab::two_hosts()?;
        let (src, dst) = (lab.src(), lab.dst());
        let redis = Redis::start(&lab, src, PID)?;
        redis.fill(src, 100_000)?;
        let digest = redis.ask(src, src, &["DEBUG", "DIGEST"])?;
        let load = redis.benchmark(src)?;
        let migration = Migration::new(&lab)?.dump_arg("--tcp-close");
        let args = ["--mode", mode, "--max-downtime", goal];
        let migration = args.iter().fold(migration, |migration, arg| migration.dump_arg(arg));
        let moved = migration.run(redis.pid())?;
        moved.succeeded().map_err(|error| format!("{mode}: {error}"))?;
        assert!(moved.event(Side::Source, "round").is_some(), "{mode}: {}", moved.logs());
        load.kill()?;
        redis.running().wait(SOON)?;
        redis.forget_hits(dst, dst)?;
        assert_eq!(redis.ask(src, dst, &["DBSIZE"])?, "100000", "{mode}");
        assert_eq!(redis.ask(src, dst, &["DEBUG", "DIGEST"])?, digest, "{mode}");
        redis.ask(src, dst, &["SHUTDOWN", "NOSAVE"]).or_else(tolerate_goodbye)?;
        ended_well(&moved).map_err(|error| format!("{mode}: {error}"))?;
    }
    Ok(())
}

/// redis-cli may call it an error that the server is gone.
fn tolerate_goodbye(error: netns_tests::LabError) -> Result<String, netns_tests::LabError> {
    match error {
        netns_tests::LabError::Command { .. } => Ok(String::new()),
        other => Err(other),
    }
}

#[test]
fn python_with_threads_and_children() -> Outcome {
    if missing(&["/usr/bin/python3"]) {
        return Ok(());
    }
    ["auto", "pre-copy"]
        .iter()
        .try_for_each(|mode| rounds(|lab| judged(lab, &Subject::python("children"), mode)))
}

#[test]
fn java_with_threads() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    if ["java", "javac"].iter().any(|program| requirements::which(program).is_none()) {
        // Half a gigabyte that no other test needs: used where somebody has it.
        eprintln!("no Java here, nothing to move");
        return Ok(());
    }
    ["auto", "pre-copy"]
        .iter()
        .try_for_each(|mode| rounds(|lab| judged(lab, &Subject::java("Threads"), mode)))
}

#[test]
fn a_thousand_threads() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    rounds(|lab| judged(lab, &Subject::new("threads").arg("threads").arg(1000), "auto"))
}

/// The pipeline's shell leads the session of its terminal.
#[test]
fn a_pipeline_that_leads_its_terminal() -> Outcome {
    pipeline(true)
}

/// The pipeline is a job in the session of somebody who stays.
#[test]
fn a_pipeline_that_is_a_shell_job() -> Outcome {
    pipeline(false)
}

fn pipeline(leader: bool) -> Outcome {
    if missing(&["script"]) {
        return Ok(());
    }
    rounds(|lab| {
        let pipeline = Pipeline::start(lab, lab.src(), PID, leader)?;
        let refused = Migration::new(lab)?.run(pipeline.pid())?;
        assert_eq!(refused.dumped().code(), Some(121), "a terminal, unasked\n{}", refused.logs());
        refused.restore().signal(Signal::SIGTERM)?;
        refused.restore().wait(SOON)?;

        let migration = Migration::new(lab)?.dump_arg("--shell-job").restore_arg("--shell-job");
        let moved = migration.restore_on_terminal().run(pipeline.pid())?;
        moved.succeeded()?;
        pipeline.terminal().wait(SOON)?;
        let here = moved.restore();
        here.wait_line("it counts on", SOON, |line| line.contains("[number").then_some(()))?;
        pipeline.end()?;
        ended_well(&moved)?;
        let terminals = [pipeline.terminal(), here];
        let last = counted(terminals).map_err(|what| format!("{what}\n{}", moved.logs()))?;
        assert!(last > 20, "{last}");
        Ok(())
    })
}

#[test]
fn nginx_with_workers() -> Outcome {
    if missing(&["nginx", "bash"]) {
        return Ok(());
    }
    rounds(|lab| {
        let (src, dst) = (lab.src(), lab.dst());
        let nginx = Nginx::start(lab, src, PID, "first")?;
        assert_eq!(nginx.page(dst, src)?, "first");
        let workers = nginx.workers(src);

        let moved = Migration::new(lab)?.run(nginx.pid())?;
        moved.succeeded()?;
        nginx.running().wait(SOON)?;

        assert_eq!(nginx.workers(dst), workers);
        assert_eq!(nginx.page(src, dst)?, "first");
        nginx.reload(dst, moved.restore(), "second")?;
        dst.signal(nginx.pid(), Signal::SIGQUIT)?;
        ended_well(&moved)
    })
}

/// A program in Go, with its connections to itself.
#[test]
fn etcd_with_its_threads() -> Outcome {
    if missing(&["etcd", "bash"]) {
        return Ok(());
    }
    ["stop", "pre-copy", "post-copy"]
        .into_iter()
        .try_for_each(|mode| rounds(|lab| moves_etcd(lab, mode)))
}

fn moves_etcd(lab: &Lab, mode: &str) -> Outcome {
    const LEASE: (u32, u32) = (7, 1000);
    let (src, dst) = (lab.src(), lab.dst());
    let etcd = Etcd::start(lab, src, PID)?;
    let before = etcd.put(dst, src, "YmVmb3Jl")?.ok_or("no revision")?;
    etcd.grant(src, src, LEASE.0, LEASE.1)?;

    let migration = Migration::new(lab)?.dump_arg("--tcp-established");
    let migration = migration.dump_arg(format!("--mode={mode}")).dump_arg("--max-downtime=10s");
    let moved = migration.run(etcd.pid())?;
    moved.succeeded()?;
    etcd.running().wait(SOON)?;

    assert_eq!(etcd.get(src, dst)?.as_deref(), Some("YmVmb3Jl"), "{}", moved.logs());
    let left = etcd.left(dst, dst, LEASE.0)?.ok_or("no lease")?;
    assert!((1..=u64::from(LEASE.1)).contains(&left), "{left} s");
    assert_eq!(etcd.put(dst, dst, "YWZ0ZXI=")?, Some(before + 1), "{}", moved.logs());
    assert_eq!(etcd.get(src, dst)?.as_deref(), Some("YWZ0ZXI="));
    dst.signal(etcd.pid(), Signal::SIGTERM)?;
    // It puts its things away, and then ends as one that does not.
    let status = moved.restore().wait(SOON)?;
    if status.code() == Some(143) {
        Ok(())
    } else {
        Err(format!("{status}\n{}", moved.logs()).into())
    }
}

/// With its ordinary locks, which keep other writers out before, on the way, and after.
#[test]
fn sqlite_in_a_transaction() -> Outcome {
    if missing(&["sqlite3"]) {
        return Ok(());
    }
    rounds(|lab| {
        let transaction = Transaction::start(lab, lab.src(), PID)?;
        assert!(transaction.keeps_others_out(lab.src())?, "no lock to carry");
        let moved = Migration::new(lab)?.run(transaction.pid())?;
        moved.succeeded()?;
        transaction.running().wait(SOON)?;
        assert!(transaction.keeps_others_out(lab.dst())?, "its lock is lost\n{}", moved.logs());
        transaction.commit(lab.dst(), moved.restore())?;
        assert!(!transaction.keeps_others_out(lab.dst())?, "a lock is left\n{}", moved.logs());
        ended_well(&moved)
    })
}

/// Its segment of System V shared memory, its anonymous and POSIX shared memory, its backends and the
/// sockets between them, a transaction that nobody else sees before it is committed.
#[test]
fn postgres_in_a_transaction() -> Outcome {
    let programs = Postgres::programs();
    if missing(&["setpriv", "psql"])
        || programs.is_none() && requirements::skip("no PostgreSQL server is installed")
    {
        return Ok(());
    }
    let programs = programs.unwrap_or_default();
    rounds(|lab| {
        let postgres = Postgres::start(lab, lab.src(), PID, programs.clone())?;
        let backends =
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
        assert_eq!(postgres.ask(lab.src(), backends)?, "3", "two clients and this one");
        let before = postgres.log().len();
        let moved = Migration::new(lab)?.run(postgres.pid())?;
        moved.succeeded()?;
        postgres.running().wait(SOON)?;
        assert_eq!(postgres.ask(lab.dst(), "SELECT count(*) FROM t")?, "0", "not committed");
        let write = "CREATE TABLE u AS SELECT generate_series(1, 100) AS number; CHECKPOINT";
        postgres.ask(lab.dst(), write)?;
        postgres.commit(moved.restore())?;
        let log = postgres.log();
        assert!(log.contains("database system is shut down"), "{log}");
        let since = &log[before..];
        assert!(!["ERROR", "FATAL", "PANIC"].iter().any(|word| since.contains(word)), "{since}");
        ended_well(&moved)
    })
}

#[test]
fn node_with_timers_workers_and_children() -> Outcome {
    if missing(&["node"]) {
        return Ok(());
    }
    ["auto", "pre-copy"]
        .iter()
        .try_for_each(|mode| rounds(|lab| judged(lab, &Subject::node("loop"), mode)))
}

/// Server, terminal and shell: what was on the screen is there, and what is typed is answered.
#[test]
fn tmux_with_a_shell() -> Outcome {
    if missing(&["tmux", "mount"]) {
        return Ok(());
    }
    rounds(|lab| {
        let (src, dst) = (lab.src(), lab.dst());
        let tmux = Tmux::start(lab, src, PID)?;
        tmux.tell(src, &["send-keys", "word=kept; echo be''fore", "Enter"])?;
        tmux.see(src, tmux.running(), "\nbefore")?;
        let tty = tmux.tell(src, &["display-message", "-p", "#{pane_tty} #{pane_pid}"])?;

        let moved = Migration::new(lab)?.run(tmux.pid())?;
        moved.succeeded()?;
        tmux.running().wait(SOON)?;

        tmux.see(dst, moved.restore(), "\nbefore")?;
        assert_eq!(tmux.tell(dst, &["display-message", "-p", "#{pane_tty} #{pane_pid}"])?, tty);
        tmux.tell(dst, &["send-keys", "echo $word-$(tty)", "Enter"])?;
        let wanted = format!("kept-{}", tty.split(' ').next().unwrap_or_default());
        tmux.see(dst, moved.restore(), &wanted)?;
        // The job itself says that it is in the foreground.
        tmux.tell(dst, &["send-keys", "sh -c 'echo a''sleep; exec sleep 1000'", "Enter"])?;
        tmux.see(dst, moved.restore(), "\nasleep")?;
        tmux.tell(dst, &["send-keys", "C-c"])?;
        tmux.see(dst, moved.restore(), "^C\nready>")?;
        tmux.tell(dst, &["send-keys", "echo still $word", "Enter"])?;
        tmux.see(dst, moved.restore(), "\nstill kept")?;
        tmux.tell(dst, &["kill-server"])?;
        ended_well(&moved)
    })
}

/// A lease cannot travel: the tree is refused, by the name of the file, and not harmed.
#[test]
fn a_lease_is_refused() -> Outcome {
    const HOLD: &str = "import fcntl, os, time
fd = os.open('leased', os.O_CREAT | os.O_WRONLY)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
open('ready', 'w').close()
time.sleep(1000)";
    if missing(&["python3"]) {
        return Ok(());
    }
    rounds(|lab| {
        let folder = lab.shared().join("lease");
        std::fs::create_dir_all(&folder)?;
        let mut command = in_session("python3");
        command.args(["-c", HOLD]).current_dir(&folder);
        lab.src().next_pid(PID)?;
        let holder = lab.src().spawn_quiet(command)?;
        let end = Instant::now() + SOON;
        while !folder.join("ready").exists() {
            assert!(Instant::now() < end && holder.ended().is_none(), "{}", holder.logs());
            std::thread::sleep(Duration::from_millis(10));
        }
        let moved = Migration::new(lab)?.run(holder.pid())?;
        assert_eq!(moved.dumped().code(), Some(121), "{}", moved.logs());
        let error = moved.event(Side::Source, "error").ok_or("no error event")?;
        let reasons = error.field("reasons").to_string();
        assert!(reasons.contains("/leased") && reasons.contains("a lease"), "{reasons}");
        assert!(holder.ended().is_none(), "{}", holder.logs());
        holder.signal(Signal::SIGKILL)?;
        holder.wait(SOON)?;
        std::fs::remove_file(folder.join("ready"))?;
        moved.restore().signal(Signal::SIGTERM)?;
        moved.restore().wait(SOON)?;
        Ok(())
    })
}
