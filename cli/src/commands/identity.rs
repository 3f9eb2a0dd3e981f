//! `qmig identity`: this host's long-lived key.

use serde_json::json;
use transport::quic::Identity;

use super::chain;
use crate::args;
use crate::exit::Exit;
use crate::options;
use crate::progress::{Failure, Progress};

pub(crate) fn run(args: &args::Identity, progress: &mut Progress) -> Result<Exit, Failure> {
    let home = options::home(args.home.as_deref());
    let identity = Identity::load_or_create(&home.join("identity"))
        .map_err(|error| Failure::here(chain(&error)))?;
    let key = identity.fingerprint().to_string();
    if progress.is_json() {
        progress.emit("identity", json!({ "key": key }));
    } else {
        println!("{key}");
    }
    progress.say(&format!(
        "As a source: add that line to authorized_peers in {} of the destination.\n\
         As a destination: give it to the source, `qmig dump --peer {key} …`.",
        home.display()
    ));
    Ok(Exit::Done)
}
