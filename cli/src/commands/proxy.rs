//! `qmig proxy`: takes the tree of a CRIU that somebody else starts to another host.

use checkpoint::SurveyOptions;
use checkpoint::engine::Captured;
use criu::stream::Capture;
use tracee::HostPid;
use transport::event::{Event, Watch as _};
use transport::stop::Stop;

use super::{dump, runtime, wishes};
use crate::args::Proxy;
use crate::exit::Exit;
use crate::options;
use crate::progress::{Failure, Progress};

pub(crate) fn run(args: &Proxy, progress: &mut Progress) -> Result<Exit, Failure> {
    options::need_root()?;
    let capture = Capture::listen(&args.images_dir, args.page_server).map_err(not_here)?;
    let folder = args.images_dir.display();
    let hook = capture.hook();
    let pages = args.page_server.map_or_else(String::new, |address| {
        format!(" --page-server --address {} --port {}", address.ip(), address.port())
    });
    let command = format!(
        "criu dump --tree PID --images-dir {folder} --stream{pages} --action-script {}",
        hook.display()
    );
    progress.say(&format!("waiting for a CRIU; type here:\n\n    {command}\n"));
    progress.emit("waiting", serde_json::json!({ "command": command }));
    let report = runtime()?.block_on(async {
        let mut stop = wishes::listen()?;
        let (capture, root) = begun(capture, &mut stop).await?;
        let engine = Box::new(Captured::new(capture));
        let whom = (HostPid(root), args.to.clone());
        let job = dump::job(&args.sending, whom, SurveyOptions::default(), engine)?;
        checkpoint::migrate_out(&job, &mut stop, progress).await.map_err(dump::told)
    })?;
    progress.event(Event::Report(report));
    Ok(Exit::Done)
}

/// Waits until a CRIU is about to dump a tree, and tells its root.
async fn begun(mut capture: Capture, stop: &mut Stop) -> Result<(Capture, i32), Failure> {
    let cancel = capture.cancel().map_err(not_here)?;
    let begun = tokio::task::spawn_blocking(move || {
        let root = capture.until_begun()?;
        Ok::<_, criu::Error>((capture, root))
    });
    tokio::pin!(begun);
    let begun = tokio::select! {
        begun = &mut begun => begun,
        () = stop.ended() => {
            cancel.cancel();
            begun.await
        }
    };
    begun.map_err(|error| Failure::here(error.to_string()))?.map_err(|error| {
        let hint = "start it as qmig says, and without --leave-running, --leave-stopped";
        Failure::here(format!("wait for a CRIU: {error}")).hint(hint)
    })
}

/// Nothing was touched.
pub(super) fn not_here(error: criu::Error) -> Failure {
    Failure::here(error.to_string())
}
