//! What moves in a trial, and what it does meanwhile.

use crate::subject::Subject;

/// A subject with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The name of the subject.
    pub subject: String,
    /// MiB of memory.
    pub mib: u32,
    /// More arguments of the subject.
    pub args: Vec<(String, u32)>,
}

/// Who asks a server: how many connections, each with how many questions a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asking {
    pub(super) clients: u32,
    pub(super) rate: u32,
    /// Of the server's memory.
    pub(super) pages: u32,
}

impl Load {
    /// The name of the subject that clients on a third host ask.
    pub const SERVER: &str = "kv";

    /// Threads that look at random pages each millisecond, and one that writes.
    pub fn toucher(mib: u32, threads: u32) -> Self {
        let args = vec![("threads".to_owned(), threads), ("random".to_owned(), 100)];
        Self { subject: "toucher".to_owned(), mib, args }
    }

    /// A thread that rewrites random pages at so many MiB a second.
    pub fn writer(mib: u32, rate: u32) -> Self {
        Self { subject: "writer".to_owned(), mib, args: vec![("rate".to_owned(), rate)] }
    }

    /// Memory that nobody touches.
    pub fn idle(mib: u32) -> Self {
        Self { subject: "filler".to_owned(), mib, args: Vec::new() }
    }

    /// A key-value server, asked by so many clients on a third host, each so often a second.
    pub fn server(mib: u32, clients: u32, rate: u32) -> Self {
        let args = vec![("clients".to_owned(), clients), ("rate".to_owned(), rate)];
        Self { subject: Self::SERVER.to_owned(), mib, args }
    }

    /// With one more argument of the subject, or another value of one.
    #[must_use]
    pub fn arg(mut self, name: &str, value: u32) -> Self {
        self.args.retain(|(known, _)| known != name);
        self.args.push((name.to_owned(), value));
        self
    }

    /// `toucher mib 64 threads 2`.
    pub fn words(&self) -> String {
        let args = self.args.iter().map(|(name, value)| format!(" {name} {value}"));
        format!("{} mib {}{}", self.subject, self.mib, args.collect::<String>())
    }

    /// Who asks it; `None` if it is no server.
    pub(super) fn asking(&self) -> Option<Asking> {
        let number = |name: &str, otherwise| {
            self.args.iter().find(|(known, _)| known == name).map_or(otherwise, |(_, value)| *value)
        };
        let (clients, rate) = (number("clients", 4).max(1), number("rate", 250).max(1));
        (self.subject == Self::SERVER).then_some(Asking { clients, rate, pages: self.mib << 8 })
    }

    pub(super) fn subject(&self) -> Subject {
        self.arguments().iter().fold(Subject::new(&self.subject), Subject::arg)
    }

    /// What the subject is started with.
    pub(super) fn arguments(&self) -> Vec<String> {
        let args = self.args.iter().flat_map(|(name, value)| [name.clone(), value.to_string()]);
        ["mib".to_owned(), self.mib.to_string()].into_iter().chain(args).collect()
    }
}
