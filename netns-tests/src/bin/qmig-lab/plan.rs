//! What an experiment consists of: EXPERIMENT.toml, and the trials that come of it.

use std::path::Path;
use std::time::Duration;

use netns_tests::experiment::{Load, Trial, Way};
use netns_tests::{Criu, Link};
use serde::Deserialize;

use crate::Outcome;

/// The experiment that `quick` runs, and an example of one.
pub(crate) const QUICK: &str = include_str!("quick.toml");
/// Everything.
pub(crate) const FULL: &str = include_str!("full.toml");

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default = "three")]
    repetitions: u32,
    #[serde(default = "two_minutes")]
    deadline_s: u64,
    ways: Vec<String>,
    loads: Vec<String>,
    #[serde(default)]
    links: Vec<NamedLink>,
    matrix: Option<Matrix>,
    /// More arguments of `qmig dump`.
    #[serde(default)]
    dump_args: Vec<String>,
}

/// A link, by its words; its name is for people.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedLink {
    name: Option<String>,
    words: String,
    /// Only these ways over it.
    ways: Option<Vec<String>>,
    /// Only these loads over it.
    loads: Option<Vec<String>>,
}

/// Every combination of these.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    rtt: Vec<String>,
    loss: Vec<String>,
    rate: Vec<String>,
    /// More words for each.
    #[serde(default)]
    words: String,
    /// Only these ways over them.
    ways: Option<Vec<String>>,
    /// Only these loads over them.
    loads: Option<Vec<String>>,
}

fn three() -> u32 {
    3
}

fn two_minutes() -> u64 {
    120
}

/// An experiment, understood.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    /// In the order in which they are done: each repetition of everything before the next.
    pub(crate) trials: Vec<Trial>,
    /// What was left out, and why.
    pub(crate) left_out: Vec<String>,
}

impl Plan {
    pub(crate) fn read(file: &Path) -> Outcome<Self> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("read {}: {error}", file.display()))?;
        Self::parse(&text)
    }

    /// Only the ways that `only` names, if it names any, and what holds each other word of it in its way, its
    /// load or the name of its link.
    pub(crate) fn keep(&mut self, only: &[String]) {
        let text = |trial: &Trial| {
            format!("{} | {} | {}", trial.way.word(), trial.load.words(), trial.link_name)
        };
        let (ways, rest): (Vec<_>, Vec<_>) =
            only.iter().partition(|word| word.parse::<Way>().is_ok());
        let of_way = |trial: &Trial| ways.iter().any(|word| *word == trial.way.word());
        self.trials.retain(|trial| {
            (ways.is_empty() || of_way(trial))
                && rest.iter().all(|word| text(trial).contains(*word))
        });
    }

    /// Between two real hosts: once over what is there, and by qmig alone.
    pub(crate) fn between(&mut self, name: &str) {
        let mut trials: Vec<Trial> = Vec::new();
        for trial in self.trials.drain(..) {
            if !matches!(trial.way, Way::Qmig { .. }) {
                self.left_out.push(format!("{}: not between two hosts", trial.way));
                continue;
            }
            if trial.load.subject == Load::SERVER {
                let why = "there is no third host for its clients";
                self.left_out.push(format!("{}: {why}", trial.load.words()));
                continue;
            }
            let trial = trial.between(name);
            let same = |other: &Trial| {
                (other.way, &other.load, other.repetition)
                    == (trial.way, &trial.load, trial.repetition)
            };
            if !trials.iter().any(same) {
                trials.push(trial);
            }
        }
        self.left_out.sort();
        self.left_out.dedup();
        self.trials = trials;
    }

    pub(crate) fn parse(text: &str) -> Outcome<Self> {
        let written: Written = toml::from_str(text)?;
        let (mut trials, mut left_out) = (Vec::new(), Vec::new());
        let links = links(&written)?;
        for repetition in 0..written.repetitions {
            for Over { name, link, ways, loads } in &links {
                for load in loads {
                    let load = load_of(load)?;
                    for way in ways {
                        let way: Way = way.parse()?;
                        let is_criu = !matches!(way, Way::Qmig { .. });
                        if is_criu && Criu::installed().is_none() {
                            left_out.push(format!("{way}: no CRIU is installed"));
                            continue;
                        }
                        if matches!(way, Way::QmigCriu { .. }) && load.subject == Load::SERVER {
                            left_out.push(format!("{way}: it takes no address of a kv along"));
                            continue;
                        }
                        let mut trial = Trial::new(way, load.clone());
                        trial.link_name.clone_from(name);
                        if let Some(link) = link {
                            trial = trial.over(name, link.clone());
                        }
                        trial.deadline = Duration::from_secs(written.deadline_s);
                        trial.dump_args.clone_from(&written.dump_args);
                        trials.push(trial.repetition(repetition));
                    }
                }
            }
        }
        left_out.sort();
        left_out.dedup();
        Ok(Self { name: written.name, trials, left_out })
    }
}

/// A link, and what goes over it.
struct Over {
    name: String,
    link: Option<Link>,
    ways: Vec<String>,
    loads: Vec<String>,
}

fn links(written: &Written) -> Outcome<Vec<Over>> {
    let mut links = Vec::new();
    for link in &written.links {
        let name = link.name.clone().unwrap_or_else(|| link.words.clone());
        let parsed = (link.words != "veth").then(|| link.words.parse::<Link>()).transpose()?;
        let ways = link.ways.as_ref().unwrap_or(&written.ways).clone();
        let loads = link.loads.as_ref().unwrap_or(&written.loads).clone();
        links.push(Over { name, link: parsed, ways, loads });
    }
    if let Some(matrix) = &written.matrix {
        let ways = matrix.ways.as_ref().unwrap_or(&written.ways);
        let loads = matrix.loads.as_ref().unwrap_or(&written.loads);
        for rate in &matrix.rate {
            for rtt in &matrix.rtt {
                for loss in &matrix.loss {
                    let words = format!("rate={rate} rtt={rtt} loss={loss} {}", matrix.words);
                    let name = format!("{rate}, RTT {rtt}, loss {loss}");
                    let link = Some(words.parse()?);
                    links.push(Over { name, link, ways: ways.clone(), loads: loads.clone() });
                }
            }
        }
    }
    if links.is_empty() {
        return Err("find a link: write [[links]] or [matrix]".into());
    }
    Ok(links)
}

/// `toucher mib 64 threads 2`: a subject and its numbers.
fn load_of(words: &str) -> Outcome<Load> {
    let mut words = words.split_whitespace();
    let subject = words.next().ok_or("find the name of a load")?.to_owned();
    let (mut mib, mut args) = (64, Vec::new());
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| format!("find the number of {name}"))?.parse()?;
        if name == "mib" { mib = value } else { args.push((name.to_owned(), value)) }
    }
    if !["toucher", "writer", "filler", "churn", Load::SERVER].contains(&subject.as_str()) {
        let known = "toucher, writer, filler, churn, kv";
        return Err(format!("find a load {subject:?}: one of {known}").into());
    }
    Ok(Load { subject, mib, args })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_is_every_combination() {
        let plan = Plan::parse(
            "name = 'm'\nrepetitions = 2\nways = ['stop', 'post-copy']\nloads = ['writer mib 4']\n\
             [matrix]\nrtt = ['1ms', '10ms']\nloss = ['0%', '1%']\nrate = ['100Mbit', 'none']\n",
        );
        let mut plan = plan.expect("a plan");
        assert_eq!(plan.trials.len(), 2 * 2 * 2 * 2 * 2);
        let keys: std::collections::BTreeSet<_> = plan
            .trials
            .iter()
            .map(|t| (t.way.word(), t.link.as_ref().map(Link::to_string), t.repetition))
            .collect();
        assert_eq!(keys.len(), plan.trials.len());
        plan.keep(&["stop".to_owned(), "RTT 10ms".to_owned()]);
        assert_eq!(plan.trials.len(), 2 * 2 * 2);
        let mut full = Plan::parse(FULL).expect("full");
        full.keep(&["stop", "post-copy", "toucher", "loss 1%"].map(str::to_owned));
        assert_eq!(
            full.trials.len(),
            3 * 2 * 5 * 4,
            "two ways and no others whose words hold theirs"
        );
    }

    #[test]
    fn the_quick_one_is_understood_and_nonsense_is_not() {
        assert!(Plan::parse(QUICK).expect("quick").trials.len() >= 8);
        let mut full = Plan::parse(FULL).expect("full");
        full.keep(&["post-copy-plain".to_owned(), "writer".to_owned()]);
        assert_eq!(full.trials.len(), 3 * (5 + 5 * 4 * 4));
        for wrong in
            ["ways = ['fly']", "loads = ['teapot']", "loads = ['writer mib']", "colour = 'red'"]
        {
            let name = wrong.split(' ').next().unwrap_or_default();
            let rest: Vec<_> = QUICK.lines().filter(|line| !line.starts_with(name)).collect();
            assert!(Plan::parse(&format!("{wrong}\n{}", rest.join("\n"))).is_err(), "{wrong}");
        }
        let without_links = "name = 'x'\nways = ['stop']\nloads = ['writer mib 4']";
        assert!(Plan::parse(without_links).is_err());
    }
}
