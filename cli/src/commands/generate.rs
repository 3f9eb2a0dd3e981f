//! `qmig generate`: man pages and shell completions, made from the same definitions as `--help`.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::{Generate, Generated, Qmig};
use crate::exit::Exit;
use crate::progress::{Failure, Progress};

pub(crate) fn run(args: &Generate, progress: &mut Progress) -> Result<Exit, Failure> {
    let written = fs::create_dir_all(&args.dir).and_then(|()| match args.what {
        Generated::Man => man_pages(&args.dir),
        Generated::Completions => completions(&args.dir),
    });
    written.map_err(|error| Failure::here(format!("write {}: {error}", args.dir.display())))?;
    progress.say(&format!("written to {}", args.dir.display()));
    Ok(Exit::Done)
}

fn man_pages(dir: &Path) -> io::Result<()> {
    let command = Qmig::command();
    clap_mangen::generate_to(command, dir)
}

fn completions(dir: &Path) -> io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Qmig::command(), "qmig", dir)?;
    }
    Ok(())
}
