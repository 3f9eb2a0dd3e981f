//! Whether to compress: a pure function of what was measured.

use std::str::FromStr;
use std::time::Duration;

/// What a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Whatever makes the whole faster.
    #[default]
    Auto,
    /// Never.
    None,
    /// LZ4, where it makes a run smaller.
    Lz4,
    /// Zstandard of this level, where it makes a run smaller.
    Zstd(i32),
}

/// How one run is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Raw,
    /// The higher the number, the sooner it gives up on what does not repeat itself.
    Lz4(i32),
    Zstd(i32),
}

impl FromStr for Compression {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd(ZSTD_LEVEL)),
            _ => {
                let level = text.strip_prefix("zstd:").and_then(|level| level.parse().ok());
                let level = level.filter(|level| ZSTD_LEVELS.contains(level));
                level.map(Self::Zstd).ok_or("one of auto, none, lz4, zstd, zstd:1 to zstd:19")
            }
        }
    }
}

/// LZ4 for a link that is waited for: as small as it can.
pub(super) const THOROUGH: Method = Method::Lz4(1);
/// LZ4 for one that is not: half as fast again, and a little larger.
const HURRIED: Method = Method::Lz4(16);
/// The level of Zstandard that `Auto` uses, and the one without a number.
pub(super) const ZSTD_LEVEL: i32 = 1;
/// Higher ones take hundreds of mebibytes.
const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// What compression has to gain before it is worth its CPU time, which somebody else may want.
const WORTH: f64 = 1.25;
/// The same where only CPU time is to be gained: what is saved is what is spent.
const WORTH_CPU: f64 = 1.05;

/// A link that takes more than this is bound by CPU time, not by the network.
const BOUND_BY_CPU: f64 = 250e6;
/// What a byte over QUIC costs both ends together, in seconds: with frames of 1500 bytes a gibibyte
/// takes two seconds of CPU time.
const SENT: f64 = 1.9e-9;
/// What undoing LZ4 costs for each raw byte.
const UNDONE: f64 = 0.1e-9;

/// What is known of a method: how fast it is when it has a processor, and what it leaves of pages like
/// these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seen {
    /// Raw bytes a second.
    pub(super) speed: f64,
    /// Compressed of raw bytes.
    pub(super) ratio: f64,
}

/// What is known when a run is to be written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Known {
    /// Bytes a second that the link takes; none as long as it takes whatever comes.
    pub(super) link: Option<f64>,
    pub(super) lz4: Seen,
    pub(super) zstd: Seen,
}

/// The method for the next run. Where the link is waited for, it and the thread that compresses work
/// side by side, so a byte takes as long as the slower of the two. Where it is not, both ends are kept
/// from going faster by CPU time alone, and LZ4 may cost less of it than the bytes that it saves.
pub(super) fn choose(asked: Compression, known: &Known) -> Method {
    match asked {
        Compression::None => Method::Raw,
        Compression::Lz4 => THOROUGH,
        Compression::Zstd(level) => Method::Zstd(level),
        Compression::Auto => {
            let Some(link) = known.link.filter(|link| *link < BOUND_BY_CPU) else {
                let cost = 1.0 / known.lz4.speed + known.lz4.ratio * SENT + UNDONE;
                return if cost * WORTH_CPU < SENT { HURRIED } else { Method::Raw };
            };
            let time = |seen: Seen| (1.0 / seen.speed).max(seen.ratio / link);
            let (lz4, zstd) = (time(known.lz4), time(known.zstd));
            let (method, best) =
                if zstd < lz4 { (Method::Zstd(ZSTD_LEVEL), zstd) } else { (THOROUGH, lz4) };
            if best * WORTH < 1.0 / link { method } else { Method::Raw }
        }
    }
}

/// What the link takes, from a stretch of sending: bytes that left in `time`, of which the sender
/// waited `waited` for the link. A link that was hardly waited for takes more than was tried.
pub(super) fn link_rate(bytes: f64, time: Duration, waited: Duration) -> Option<f64> {
    (waited * 4 > time && !time.is_zero()).then(|| bytes / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_way_is_chosen() {
        let text = Known {
            link: None,
            lz4: Seen { speed: 800e6, ratio: 0.4 },
            zstd: Seen { speed: 400e6, ratio: 0.25 },
        };
        let noise = Known {
            lz4: Seen { speed: 3e9, ratio: 1.0 },
            zstd: Seen { speed: 1e9, ratio: 1.0 },
            ..text
        };
        let slow = Known {
            lz4: Seen { speed: 150e6, ratio: 0.4 },
            zstd: Seen { speed: 80e6, ratio: 0.25 },
            ..text
        };
        let quick = Known { lz4: Seen { speed: 2.4e9, ratio: 0.54 }, ..text };
        let rows = [
            // Known, link in MB/s: method.
            (text, None, Method::Raw),
            (text, Some(12.0), Method::Zstd(ZSTD_LEVEL)),
            (text, Some(120.0), Method::Zstd(ZSTD_LEVEL)),
            (text, Some(240.0), THOROUGH),
            (text, Some(500.0), Method::Raw),
            (text, Some(2000.0), Method::Raw),
            (quick, None, HURRIED),
            (quick, Some(500.0), HURRIED),
            (quick, Some(2000.0), HURRIED),
            (noise, None, Method::Raw),
            (noise, Some(1.0), Method::Raw),
            (noise, Some(500.0), Method::Raw),
            (slow, Some(120.0), Method::Raw),
            (slow, Some(12.0), Method::Zstd(ZSTD_LEVEL)),
        ];
        for (known, link, expected) in rows {
            let known = Known { link: link.map(|mb| mb * 1e6), ..known };
            assert_eq!(choose(Compression::Auto, &known), expected, "{known:?}");
        }
        assert_eq!(choose(Compression::None, &text), Method::Raw);
        assert_eq!(choose(Compression::Lz4, &noise), THOROUGH);
        assert_eq!(choose(Compression::Zstd(7), &noise), Method::Zstd(7));
    }

    #[test]
    fn what_is_asked_for_is_read() {
        let rows = [
            ("auto", Some(Compression::Auto)),
            ("none", Some(Compression::None)),
            ("lz4", Some(Compression::Lz4)),
            ("zstd", Some(Compression::Zstd(ZSTD_LEVEL))),
            ("zstd:19", Some(Compression::Zstd(19))),
            ("zstd:20", None),
            ("zstd:0", None),
            ("lz4:2", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_link_is_known_only_when_it_was_waited_for() {
        let ms = Duration::from_millis;
        assert_eq!(link_rate(1e6, ms(100), ms(10)), None);
        assert_eq!(link_rate(1e6, ms(100), ms(50)), Some(1e7));
        assert_eq!(link_rate(1e6, ms(0), ms(0)), None);
    }
}
