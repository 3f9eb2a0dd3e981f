//! Tickets, keys and certificates that are wrong, and those that are right.

use std::error::Error;
use std::path::Path;
use std::process::Command;

use netns_tests::chaos::{Action, Fault, Runs, who_runs};
use netns_tests::{Host, Lab, Migration, Side, Subject, TlsKeys, qmig_binary};

use crate::end::{self, End};
use crate::{Outcome, SOON, missing, table};
use End::{Moved, Parent, Refused, Usage, Waits};

/// How the two know each other, and what comes of it.
struct Row {
    name: &'static str,
    dump: &'static [&'static str],
    restore: &'static [&'static str],
    end: End,
    /// Words that the error must contain.
    says: &'static [&'static str],
}

/// Words in capitals are filled in: see [`Known::fill`].
const ROWS: &[Row] = &[
    Row {
        name: "the ticket of another destination",
        dump: &["--ticket", "OTHER_TICKET"],
        restore: &["--ticket-file", "TICKET_FILE"],
        end: Refused,
        says: &["expected", "the ticket or pin is of another destination"],
    },
    Row {
        name: "a forged ticket",
        dump: &["--ticket", "FORGED_TICKET"],
        restore: &["--ticket-file", "TICKET_FILE"],
        end: Refused,
        says: &["unknown key"],
    },
    Row {
        name: "a mistyped ticket",
        dump: &["--ticket", "MISTYPED_TICKET"],
        restore: &["--ticket-file", "TICKET_FILE"],
        end: Usage,
        says: &["mistyped", "copy the whole line"],
    },
    Row {
        name: "no ticket at all",
        dump: &["--ticket", "password"],
        restore: &["--ticket-file", "TICKET_FILE"],
        end: Usage,
        says: &["starts with qmig1"],
    },
    Row {
        name: "no such ticket file",
        dump: &["--ticket-file", "/nowhere/ticket"],
        restore: &["--ticket-file", "TICKET_FILE"],
        end: Usage,
        says: &["/nowhere/ticket", "No such file"],
    },
    Row {
        name: "an expired ticket",
        dump: &["--ticket-file", "TICKET_FILE"],
        restore: &["--ticket-file", "TICKET_FILE", "--ticket-expires", "1ms"],
        end: Refused,
        says: &["ticket expired", "for a new ticket"],
    },
    Row {
        name: "a good ticket",
        dump: &["--ticket-file", "TICKET_FILE"],
        restore: &["--ticket-file", "TICKET_FILE"],
        end: Moved,
        says: &[],
    },
    Row {
        name: "a known peer",
        dump: &["--home", "SOURCE_HOME", "--peer", "DESTINATION_KEY"],
        restore: &["--no-ticket", "--home", "WELCOMING_HOME"],
        end: Moved,
        says: &[],
    },
    Row {
        name: "an unknown peer",
        dump: &["--home", "SOURCE_HOME", "--peer", "STRICT_KEY"],
        restore: &["--no-ticket", "--home", "STRICT_HOME"],
        end: Refused,
        says: &["unknown key", "authorized_peers"],
    },
    Row {
        name: "a wrong pinned key",
        dump: &["--home", "SOURCE_HOME", "--peer", "STRICT_KEY"],
        restore: &["--no-ticket", "--home", "WELCOMING_HOME"],
        end: Refused,
        says: &["expected", "compare with `qmig identity`"],
    },
    Row {
        name: "a key that is not pinned",
        dump: &["--home", "SOURCE_HOME"],
        restore: &["--no-ticket", "--home", "WELCOMING_HOME"],
        end: Refused,
        says: &["not pinned", "DESTINATION_KEY"],
    },
    Row {
        name: "one authority",
        dump: &["--cacert", "CA/ca.pem", "--cert", "CA/cert.pem", "--key", "CA/key.pem"],
        restore: &[
            "--no-ticket",
            "--cacert",
            "CA/ca.pem",
            "--cert",
            "CA/cert.pem",
            "--key",
            "CA/key.pem",
        ],
        end: Moved,
        says: &[],
    },
    Row {
        name: "another authority",
        dump: &[
            "--cacert",
            "CA/ca.pem",
            "--cert",
            "OTHER_CA/cert.pem",
            "--key",
            "OTHER_CA/key.pem",
        ],
        restore: &[
            "--no-ticket",
            "--cacert",
            "CA/ca.pem",
            "--cert",
            "CA/cert.pem",
            "--key",
            "CA/key.pem",
        ],
        end: Refused,
        says: &["unknown key"],
    },
];

/// What the words in capitals stand for in one lab.
struct Known(Vec<(&'static str, String)>);

impl Known {
    /// Homes with keys, two authorities, and where the ticket goes.
    fn prepare(lab: &Lab) -> Result<Self, Box<dyn Error>> {
        let shared = |name: &str| lab.shared().join(name).display().to_string();
        let homes = ["source", "welcoming", "strict"].map(shared);
        let mut keys = Vec::new();
        for home in &homes {
            std::fs::create_dir(home)?;
            keys.push(identity(lab.src(), Path::new(home))?);
        }
        std::fs::write(format!("{}/authorized_peers", homes[1]), format!("{} source\n", keys[0]))?;
        std::fs::write(format!("{}/authorized_peers", homes[2]), format!("{} strict\n", keys[2]))?;
        let address = lab.dst().addr().to_string();
        let (ca, other_ca) =
            (TlsKeys::make(lab, "ca", &address)?, TlsKeys::make(lab, "other-ca", &address)?);
        let [source, welcoming, strict] = homes;
        Ok(Self(vec![
            // The longer names first: each may be a part of another.
            ("TICKET_FILE", shared("ticket")),
            ("SOURCE_HOME", source),
            ("WELCOMING_HOME", welcoming),
            ("STRICT_HOME", strict),
            ("DESTINATION_KEY", keys[1].clone()),
            ("STRICT_KEY", keys[2].clone()),
            ("OTHER_CA", other_ca.folder().display().to_string()),
            ("CA", ca.folder().display().to_string()),
        ]))
    }

    /// What can be told only once the destination listens.
    fn learn(&mut self, lab: &Lab, ticket: &str) -> Result<(), Box<dyn Error>> {
        let other = Migration::new(lab)?.restore_arg("--home").restore_arg("/nowhere");
        // On another host another qmig may listen on the same port.
        let other = other.listen_on(Side::Source)?;
        let other_ticket = std::fs::read_to_string(other.ticket())?;
        let mut mistyped = ticket.to_owned();
        let last = mistyped.pop().ok_or("an empty ticket")?;
        mistyped.push(if last == 'a' { 'b' } else { 'a' });
        self.0.splice(
            0..0,
            [
                ("OTHER_TICKET", other_ticket.trim().to_owned()),
                ("FORGED_TICKET", forged(ticket)?),
                ("MISTYPED_TICKET", mistyped),
            ],
        );
        Ok(())
    }

    fn fill(&self, word: &str) -> String {
        self.0.iter().fold(word.to_owned(), |word, (name, value)| word.replace(name, value))
    }
}

fn identity(host: &Host, home: &Path) -> Result<String, Box<dyn Error>> {
    let mut qmig = Command::new(qmig_binary()?);
    qmig.arg("identity").arg("--home").arg(home);
    let output = host.run(qmig)?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A ticket for the same destination with another one-time key, as somebody would make it who knows
/// the format but was not given a ticket.
fn forged(ticket: &str) -> Result<String, Box<dyn Error>> {
    let python = "import base64,hashlib,sys\n\
        t=sys.argv[1][5:].upper(); b=bytearray(base64.b32decode(t+'='*(-len(t)%8))[:-4])\n\
        b[32]^=1; b+=hashlib.sha256(b).digest()[:4]\n\
        print('qmig1'+base64.b32encode(b).decode().rstrip('=').lower())";
    let output = Command::new("/usr/bin/python3").args(["-c", python, ticket]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
fn whom_to_believe() -> Outcome {
    if missing(&["/usr/bin/python3", "openssl"]) {
        return Ok(());
    }
    table::run(ROWS, |row| row.name.to_owned(), one)
}

fn one(row: &Row) -> Result<(), Box<dyn Error>> {
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    let mut known = Known::prepare(&lab)?;
    let mut migration = Migration::new(&lab)?.without_ticket();
    for word in row.restore {
        migration = migration.restore_arg(known.fill(word));
    }
    let listening = migration.listen()?;
    if let Ok(ticket) = std::fs::read_to_string(known.fill("TICKET_FILE")) {
        known.learn(&lab, ticket.trim())?;
    }
    let mut dump = listening.dump_command(started.pid());
    dump.args(row.dump.iter().map(|word| known.fill(word)));
    let moving = listening.dump_with(dump)?;
    let [dump, restore] = Side::BOTH.map(|side| moving.qmig(side));
    let judge = || -> Result<(), Box<dyn Error>> {
        end::of(dump, &[row.end])?;
        let said = end::words(dump);
        for words in row.says {
            if !said.contains(&known.fill(words)) {
                return Err(format!("{said:?} does not say {words:?}").into());
            }
        }
        end::of(restore, &[if row.end == Moved { Parent } else { Waits }])?;
        let runs = who_runs(&lab, started.pid(), SOON);
        if Some(runs) != row.end.who_runs() {
            return Err(format!("{runs:?} runs").into());
        }
        Ok(())
    };
    judge().map_err(|error| format!("{error}\n{}", moving.logs()).into())
}

/// The second migration with one ticket is refused, and harms neither tree.
#[test]
fn a_ticket_works_once() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let first = Subject::new("heartbeat").start(&lab, lab.src())?;
    let second = Subject::new("heartbeat").pid(20_000).start(&lab, lab.src())?;
    let listening = Migration::new(&lab)?.listen()?;
    let again = listening.dump_command(second.pid());
    let moving = listening.dump(first.pid())?;
    end::of(moving.qmig(Side::Source), &[Moved])?;
    let again = lab.src().spawn(again)?;
    end::of(&again, &[Refused])?;
    let said = end::words(&again);
    assert!(said.contains("ticket used before") && said.contains("for a new ticket"), "{said}");
    first.running().wait(SOON)?;
    assert_eq!(who_runs(&lab, first.pid(), SOON), Runs::Destination);
    assert_eq!(who_runs(&lab, second.pid(), SOON), Runs::Source);
    assert!(second.ask(lab.src())?.passed());
    assert!(first.ask_at(lab.dst(), moving.qmig(Side::Destination))?.passed());
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(())
}

/// A peer that speaks another version of the protocol is told both lists, and what to do.
#[test]
fn another_version() -> Outcome {
    if missing(&[]) {
        return Ok(());
    }
    let lab = Lab::two_hosts()?;
    let started = Subject::new("heartbeat").start(&lab, lab.src())?;
    let fault = Fault::new(Side::Source, "hello", Action::Version);
    let moving = Migration::new(&lab)?.fault(fault).listen()?.dump(started.pid())?;
    let [dump, restore] = Side::BOTH.map(|side| moving.qmig(side));
    end::of(dump, &[Refused]).map_err(|what| format!("{what}\n{}", moving.logs()))?;
    end::of(restore, &[Refused]).map_err(|what| format!("{what}\n{}", moving.logs()))?;
    let said = end::words(dump);
    for words in ["the source speaks version", "the destination speaks version 1", "same release"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(who_runs(&lab, started.pid(), SOON), Runs::Source);
    assert!(started.ask(lab.src())?.passed());
    assert_eq!(lab.wait_empty(SOON), []);
    Ok(())
}
