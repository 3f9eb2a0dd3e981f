//! By which tool, and how, a process moves.

use std::fmt;
use std::str::FromStr;

/// How a process moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// `qmig dump --mode …`.
    Qmig {
        /// The mode.
        mode: &'static str,
        /// What the link does without, or besides, to see what it is worth: options of both sides.
        link: &'static str,
        /// What all but wanted pages are held to (`--limit-rate`).
        limit: Option<&'static str>,
    },
    /// The same with `--engine criu` on both sides.
    QmigCriu {
        /// The mode.
        mode: &'static str,
    },
    /// `criu dump --page-server`, the images copied over TCP, `criu restore`.
    CriuStop {
        /// Pages are encrypted. (Images never are.)
        tls: bool,
    },
    /// `criu dump --lazy-pages`, the images copied over TCP, `criu lazy-pages`, `criu restore`.
    CriuLazy {
        /// Pages are encrypted. (Images never are.)
        tls: bool,
    },
}

/// Every way: its word and what it is, for people.
pub const WAYS: [(&str, Way, &str); 20] = [
    ("stop", qmig("stop"), "qmig, stop and copy"),
    ("pre-copy", qmig("pre-copy"), "qmig, pre-copy"),
    ("post-copy", qmig("post-copy"), "qmig, post-copy"),
    ("post-copy-idle", Way::POST_COPY_IDLE, "qmig, post-copy, the rest at 1 Mbit/s"),
    ("hybrid", qmig("hybrid"), "qmig, hybrid"),
    ("auto", qmig("auto"), "qmig, auto"),
    ("criu-engine-stop", Way::CRIU_ENGINE_STOP, "qmig by CRIU, stop and copy"),
    ("criu-engine-post-copy", Way::CRIU_ENGINE_POST_COPY, "qmig by CRIU, post-copy"),
    ("criu-stop", Way::CriuStop { tls: false }, "CRIU, page server, in the clear"),
    ("criu-stop-tls", Way::CriuStop { tls: true }, "CRIU, page server, `--tls`"),
    ("criu-lazy", Way::CriuLazy { tls: false }, "CRIU, lazy-pages, in the clear"),
    ("criu-lazy-tls", Way::CriuLazy { tls: true }, "CRIU, lazy-pages, `--tls`"),
    ("post-copy-no-credit", by(NO_CREDIT), "qmig, no bound on bulk on its way"),
    ("post-copy-no-priorities", by(NO_PRIORITIES), "qmig, no priorities"),
    ("post-copy-one-stream", by(ONE_STREAM), "qmig, all pages over one stream"),
    ("post-copy-cubic", by(CUBIC), "qmig, Cubic"),
    ("post-copy-no-socket-buffer", by(NO_SOCKET_BUFFER), "qmig, the kernel's own socket buffers"),
    ("post-copy-second", by(SECOND), "qmig, faults over a connection of their own"),
    ("post-copy-plain", by(PLAIN), "qmig, one stream, Cubic, no bound, no priorities"),
    (
        "post-copy-plain-second",
        by(PLAIN_SECOND),
        "qmig, Cubic, no bound, no priorities, faults over a connection of their own",
    ),
];

const NO_CREDIT: &str = "--link-without=credit";
const NO_PRIORITIES: &str = "--link-without=priorities";
const ONE_STREAM: &str = "--link-without=streams";
const CUBIC: &str = "--link-without=delay-control";
const NO_SOCKET_BUFFER: &str = "--link-without=socket-buffer";
const SECOND: &str = "--link-with=second-connection";
const PLAIN: &str = "--link-without=credit,priorities,streams,delay-control";
/// As other tools have it: neither connection cares for the other.
const PLAIN_SECOND: &str =
    "--link-without=credit,priorities,delay-control --link-with=second-connection";

const fn qmig(mode: &'static str) -> Way {
    Way::Qmig { mode, link: "", limit: None }
}

const fn by(link: &'static str) -> Way {
    Way::Qmig { mode: "post-copy", link, limit: None }
}

impl Way {
    /// Post-copy as it is meant.
    pub const POST_COPY: Self = qmig("post-copy");
    /// The same while the link is as good as idle: what is waited for has it for itself.
    pub const POST_COPY_IDLE: Self =
        Self::Qmig { mode: "post-copy", link: "", limit: Some("1Mbit") };
    /// Pre-copy as it is meant.
    pub const PRE_COPY: Self = qmig("pre-copy");
    /// Rounds, and what they cannot bring follows.
    pub const HYBRID: Self = qmig("hybrid");
    /// Stop and copy.
    pub const STOP: Self = qmig("stop");
    /// What qmig thinks is best.
    pub const AUTO: Self = qmig("auto");

    /// Stop and copy, by a CRIU.
    pub const CRIU_ENGINE_STOP: Self = Self::QmigCriu { mode: "stop" };
    /// Post-copy, by a CRIU.
    pub const CRIU_ENGINE_POST_COPY: Self = Self::QmigCriu { mode: "post-copy" };

    /// The word for it.
    pub fn word(self) -> &'static str {
        WAYS.iter().find(|(_, way, _)| *way == self).map_or("?", |(word, ..)| word)
    }

    /// Post-copy as it is meant; without each of its remedies; with another; without those that
    /// are about order, and with that other in their place.
    pub const ABLATIONS: [Self; 9] = [
        Self::POST_COPY,
        by(NO_CREDIT),
        by(NO_PRIORITIES),
        by(ONE_STREAM),
        by(CUBIC),
        by(NO_SOCKET_BUFFER),
        by(SECOND),
        by(PLAIN),
        by(PLAIN_SECOND),
    ];

    /// What controls qmig's congestion.
    pub(super) fn congestion(self) -> &'static str {
        match self {
            Self::Qmig { link, .. } if link.contains("delay-control") => "cubic",
            Self::Qmig { .. } | Self::QmigCriu { .. } => "delay",
            Self::CriuStop { .. } | Self::CriuLazy { .. } => "",
        }
    }

    /// Whether the process may run before all of its pages are there.
    pub fn is_lazy(self) -> bool {
        matches!(
            self,
            Self::CriuLazy { .. }
                | Self::QmigCriu { mode: "post-copy" | "hybrid" | "auto" }
                | Self::Qmig { mode: "post-copy" | "hybrid" | "auto", .. }
        )
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = WAYS.iter().find(|(known, ..)| *known == word);
        known.map(|(_, way, _)| *way).ok_or_else(|| {
            let words: Vec<_> = WAYS.iter().map(|(word, ..)| *word).collect();
            format!("understand the way {word:?}: one of {}", words.join(" "))
        })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = WAYS.iter().find(|(_, way, _)| way == self).map_or("?", |(.., told)| told);
        f.write_str(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_back() {
        for (word, way, _) in WAYS {
            assert_eq!((word.parse(), way.word()), (Ok(way), word));
        }
        assert!("teleport".parse::<Way>().is_err());
        assert!(Way::POST_COPY.is_lazy() && !Way::STOP.is_lazy());
    }
}
