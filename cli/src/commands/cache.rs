//! `qmig cache`: takes a tree in for a CRIU that somebody else starts.

use criu::stream::Serve;
use restore::engine::Served;

use super::proxy::not_here;
use super::restore::{Keeps, take_in};
use super::{runtime, wishes};
use crate::args::Cache;
use crate::exit::Exit;
use crate::options;
use crate::progress::{Failure, Progress};

pub(crate) fn run(args: &Cache, progress: &mut Progress) -> Result<Exit, Failure> {
    options::need_root()?;
    let serve = Serve::listen(&args.images_dir).map_err(not_here)?;
    let folder = args.images_dir.display();
    let hook = serve.hook();
    let command = format!(
        "criu restore --images-dir {folder} --work-dir {folder} --stream --lazy-pages \
         --action-script {}",
        hook.display()
    );
    progress.say(&format!("start the CRIU that shall restore, now or later:\n\n    {command}\n"));
    runtime()?.block_on(async {
        let mut stop = wishes::listen()?;
        let engine = Served::new(serve);
        let what = "proxy --images-dir DIR";
        take_in(&engine, &args.waiting, what, Keeps::nothing(), &mut stop, progress).await
    })
}
