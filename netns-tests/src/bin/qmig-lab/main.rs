//! `qmig lab`: migrations over emulated networks, as experiments that anyone can repeat.

#![forbid(unsafe_code)]

mod compare;
mod page;
mod plan;
mod run;
mod table;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use netns_tests::experiment::PairWords;
use plan::{FULL, Plan, QUICK};
use run::Results;

const USAGE: &str = "usage: qmig lab quick --out DIR [ONLY…]
       qmig lab full --out DIR [ONLY…]
       qmig lab run EXPERIMENT.toml --out DIR [ONLY…]
       qmig lab page DIR
       qmig lab compare DIR DIR…
       qmig lab example [full]

Builds two hosts out of namespaces and a link between them (root), moves a process over it by each way
of the experiment, again and again, and writes into DIR: records.ndjson (each trial, with everything
that is needed to repeat it), records.csv, and index.html, one page that needs no network. A run that
was interrupted goes on where it stopped. ONLY keeps the trials that hold this text in their way, load
or link; if it is the word of a way, that way alone and others so named. `example` prints the experiment that quick runs, or full, which takes days unless ONLY bounds it.
`compare` holds each DIR against the first.

Between two real hosts, over the network that is there:
  --source ssh:USER@HOST --destination ssh:USER@HOST   root there, or somebody who may `sudo -n`
  --to HOST       the destination as the source knows it, if not by the same name
  --ssh WORDS     what to log in with, such as 'ssh -F FILE' (default: ssh)
  --qmig PATH     the qmig that is there; else this one is copied, and removed when all is done
  --folder DIR    where a folder of ours may be on both while this runs (default: /tmp)
";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What was asked for.
enum Command {
    Run {
        experiment: Experiment,
        out: PathBuf,
        only: Vec<String>,
        pair: Option<PairWords>,
    },
    Page(PathBuf),
    /// One, and what is held against it.
    Compare(PathBuf, Vec<PathBuf>),
    Example(&'static str),
}

/// One that somebody wrote, or one of ours.
enum Experiment {
    File(PathBuf),
    Ours(&'static str),
}

/// The text of one of ours.
fn ours(name: &str) -> Option<&'static str> {
    match name {
        "quick" => Some(QUICK),
        "full" => Some(FULL),
        _ => None,
    }
}

impl Command {
    fn parse(args: impl IntoIterator<Item = String>) -> Option<Self> {
        let mut words: Vec<String> = args.into_iter().collect();
        let mut option = |name: &str| {
            let at = words.iter().position(|word| word == name)?;
            let value = words.get(at + 1).cloned();
            words.drain(at..words.len().min(at + 2));
            Some(value)
        };
        let out = option("--out");
        let pair = [option("--source"), option("--destination")];
        let [to, ssh, qmig, folder] = ["--to", "--ssh", "--qmig", "--folder"].map(option);
        let pair = match pair {
            [Some(Some(source)), Some(Some(destination))] => Some(PairWords {
                source,
                destination,
                to: to.flatten(),
                ssh: ssh.flatten().unwrap_or_else(|| "ssh".to_owned()),
                qmig: qmig.flatten(),
                place: folder.flatten().unwrap_or_else(|| "/tmp".to_owned()),
            }),
            [None, None] if [to, ssh, qmig, folder].iter().all(Option::is_none) => None,
            _ => return None,
        };
        match (words.first()?.as_str(), out.map(|out| out.map(PathBuf::from))) {
            (name @ ("quick" | "full"), Some(Some(out))) => {
                let experiment = Experiment::Ours(ours(name)?);
                Some(Self::Run { experiment, out, only: words.split_off(1), pair })
            }
            ("run", Some(Some(out))) => {
                let experiment = Experiment::File(words.get(1)?.into());
                Some(Self::Run { experiment, out, only: words.split_off(2), pair })
            }
            _ if pair.is_some() => None,
            ("page", None) if words.len() == 2 => Some(Self::Page(words.get(1)?.into())),
            ("compare", None) if words.len() >= 3 => {
                let others = words[2..].iter().map(PathBuf::from).collect();
                Some(Self::Compare(words.get(1)?.into(), others))
            }
            ("example", None) => {
                ours(words.get(1).map_or("quick", String::as_str)).map(Self::Example)
            }
            _ => None,
        }
    }
}

fn main() -> ExitCode {
    let Some(command) = Command::parse(std::env::args().skip(1)) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    match obey(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qmig lab: failed to {error}");
            ExitCode::FAILURE
        }
    }
}

fn obey(command: Command) -> Outcome<()> {
    match command {
        Command::Run { experiment, out, only, pair } => {
            if pair.is_none() && !nix::unistd::geteuid().is_root() {
                return Err("build hosts out of namespaces without root".into());
            }
            netns_tests::qmig_binary()?;
            let mut plan = match experiment {
                Experiment::File(file) => Plan::read(&file)?,
                Experiment::Ours(text) => Plan::parse(text)?,
            };
            if let Some(words) = &pair {
                plan.between(&words.name());
            }
            plan.keep(&only);
            let results = Results::in_folder(&out)?;
            run::run(&plan, &results, pair.as_ref())?;
            show(&plan.name, &results)
        }
        Command::Page(folder) => {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            show(&name, &Results::in_folder(&folder)?)
        }
        Command::Compare(one, others) => {
            let records = |folder: &Path| Results::in_folder(folder)?.records();
            let first = records(&one)?;
            for other in &others {
                if others.len() > 1 {
                    println!("{} → {}", one.display(), other.display());
                }
                print!("{}", compare::compare(&first, &records(other)?));
            }
            Ok(())
        }
        Command::Example(text) => {
            print!("{text}");
            Ok(())
        }
    }
}

/// Write everything that is made of the records.
fn show(name: &str, results: &Results) -> Outcome<()> {
    let records = results.records()?;
    std::fs::write(results.path("records.csv"), table::csv(&records))?;
    let page = results.path("index.html");
    std::fs::write(&page, page::page(name, &records))?;
    eprintln!("{} records; open {}", records.len(), page.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let parse = |line: &str| Command::parse(line.split(' ').map(str::to_owned));
        let run = parse("run a.toml --out /tmp/x stop lan");
        assert!(
            matches!(run, Some(Command::Run { experiment: Experiment::File(_), only, .. }) if only == ["stop", "lan"])
        );
        for (name, text) in [("quick", QUICK), ("full", FULL)] {
            let run = parse(&format!("{name} --out d"));
            assert!(
                matches!(run, Some(Command::Run { experiment: Experiment::Ours(it), .. }) if it == text)
            );
            let shown = parse(&format!("example {name}"));
            assert!(matches!(shown, Some(Command::Example(it)) if it == text));
        }
        let far = parse("quick --out d --source ssh:a@b --destination ssh:c@d --to e stop");
        assert!(
            matches!(far, Some(Command::Run { pair: Some(PairWords { to: Some(to), source, .. }), only, .. })
                if to == "e" && source == "ssh:a@b" && only == ["stop"])
        );
        assert!(matches!(parse("compare a b"), Some(Command::Compare(..))));
        let three = parse("compare a b c");
        assert!(matches!(three, Some(Command::Compare(_, others)) if others.len() == 2));
        for wrong in [
            "",
            "quick",
            "quick --out",
            "run --out d",
            "page",
            "compare a",
            "dance",
            "quick --out d --to e",
            "page d --source a --destination b",
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
