//! A dump in several commands, as CRIU's users know it: `dump --pre-dump`, again, …, `dump`.
//!
//! The first command stays and holds the session: a connection and a tree that is watched cannot be
//! put down and taken up again. The others ask it over a socket that only root can reach: a line there
//! (`round`, `finish`), a line back (an exit code, and what there is to say).

use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as Knocking;
use std::path::{Path, PathBuf};
use std::time::Duration;

use checkpoint::{Ask, Made};
use pages::ByteCount;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tracee::HostPid;
use transport::session::RunsOn;

use crate::exit::Exit;
use crate::progress::{Failure, Progress};

const FOLDER: &str = "/run/qmig";
/// Bytes of the longest question.
const LONGEST: u64 = 16;
/// How long those who asked may take to hear how it ended.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How it ended: exit code and a line.
type End = (u8, String);

/// Where later commands for the same tree knock. Dropped, nobody can any more.
pub(super) struct Door {
    path: PathBuf,
    ended: watch::Sender<Option<End>>,
}

impl Door {
    /// Opens it; needs the runtime. Whoever knocks asks `asker`.
    pub(super) fn open(root: HostPid, asker: mpsc::Sender<Ask>) -> Result<Self, Failure> {
        let path = path(root);
        if Knocking::connect(&path).is_ok() {
            let what = format!("begin a session: there is one for {root}");
            return Err(Failure::usage(what, "without --to it is asked for another round"));
        }
        let failed = |error: io::Error| Failure::here(format!("open {}: {error}", path.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(FOLDER).map_err(failed)?;
        let _ = fs::remove_file(&path); // of a session that died
        let listener = UnixListener::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let (ended, end) = watch::channel(None);
        tokio::spawn(serve(listener, asker, end));
        Ok(Self { path, ended })
    }

    /// Tells those who wait how it ended.
    pub(super) async fn close(self, code: Exit, said: &str) {
        let said = said.lines().next().unwrap_or_default().to_owned();
        let _ = self.ended.send(Some((code.code(), said)));
        let _ = tokio::time::timeout(LAST_WORD, self.ended.closed()).await;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn path(root: HostPid) -> PathBuf {
    Path::new(FOLDER).join(format!("dump-{root}.sock"))
}

async fn serve(
    listener: UnixListener,
    asker: mpsc::Sender<Ask>,
    mut end: watch::Receiver<Option<End>>,
) {
    loop {
        tokio::select! {
            knocked = listener.accept() => if let Ok((stream, _)) = knocked {
                tokio::spawn(answer(stream, asker.clone(), end.clone()));
            },
            _ = end.changed() => return,
        }
    }
}

/// Somebody who goes away before the answer is not waited for.
async fn answer(
    mut stream: UnixStream,
    asker: mpsc::Sender<Ask>,
    mut end: watch::Receiver<Option<End>>,
) {
    let (reader, mut writer) = stream.split();
    let mut question = String::new();
    if BufReader::new(reader.take(LONGEST)).read_line(&mut question).await.is_err() {
        return;
    }
    let made = match question.trim_end() {
        "round" => {
            let (tell, told) = oneshot::channel();
            let asked = asker.send(Ask::Round(tell)).await.is_ok();
            if asked { told.await.ok() } else { None }
        }
        "finish" => {
            let _ = asker.send(Ask::Finish).await; // or it has ended: then that is said
            None
        }
        _ => return,
    };
    let (code, said) = match made {
        Some(made) => (Exit::Done.code(), in_words(&made)),
        None => match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_default(),
            Err(_) => return,
        },
    };
    let _ = writer.write_all(format!("{code} {said}\n").as_bytes()).await;
}

fn in_words(made: &Made) -> String {
    let round = &made.round;
    format!(
        "round {}: {} in {} ms, {} changed; it would stand still {} ms",
        made.number,
        ByteCount(round.pages.bytes().0),
        round.took.as_millis(),
        ByteCount(round.dirty.bytes().0),
        made.predicted.as_millis()
    )
}

/// Asks the session of a tree for another round, or to finish; `None` if there is no session.
pub(super) fn ask(
    root: HostPid,
    finish: bool,
    progress: &Progress,
) -> Option<Result<Exit, Failure>> {
    let mut door = Knocking::connect(path(root)).ok()?;
    let question = if finish { "finish\n" } else { "round\n" };
    let mut said = String::new();
    let heard = door
        .write_all(question.as_bytes())
        .and_then(|()| io::BufReader::new(&door).read_line(&mut said));
    let answer = heard.ok().and_then(|_| {
        let (code, said) = said.trim_end().split_once(' ')?;
        Some((code.parse::<u8>().ok()?, said.to_owned()))
    });
    let Some((code, said)) = answer else {
        let what = "hear the session: it ended without a word";
        return Some(Err(Failure { code: Exit::Aborted, ..Failure::here(what) }));
    };
    if code == Exit::Done.code() {
        progress.say(&said);
        return Some(Ok(Exit::Done));
    }
    let (exit, runs_on) = match code {
        121 => (Exit::Refused, RunsOn::Source),
        123 => (Exit::Stranded, RunsOn::None),
        _ => (Exit::Aborted, RunsOn::Source),
    };
    let hint = "the command that began the session says more";
    Some(Err(Failure { code: exit, runs_on, ..Failure::here(said) }.hint(hint)))
}
