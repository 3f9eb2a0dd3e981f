//! The qmig command: parse, run, exit.

mod args;
mod commands;
mod exit;
mod options;
mod progress;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    if tracee::keeper::called_for() {
        return tracee::keeper::run();
    }
    if criu::shim::called_for() {
        return criu::shim::run();
    }
    if criu::stream::called_for() {
        return criu::stream::run();
    }
    let args = args::Qmig::parse();
    start_tracing(args.verbose);
    let mut progress = progress::Progress::new(args.json, args.quiet);
    let outcome = commands::run(args.command, &mut progress);
    progress.finish();
    match outcome {
        Ok(code) => code.into(),
        Err(failure) => {
            progress.failure(&failure);
            failure.code.into()
        }
    }
}

/// Logging is for whoever debugs qmig: off unless asked for with -v or RUST_LOG, always to stderr.
fn start_tracing(verbose: u8) {
    let default = match verbose {
        0 => "off",
        1 => "qmig=info,transport=info,checkpoint=info,restore=info",
        2 => "qmig=debug,transport=debug,checkpoint=debug,restore=debug,tracee=debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
