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
    Lz4,
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

/// The level of Zstandard that `Auto` uses, and the one without a number.
pub(super) const ZSTD_LEVEL: i32 = 1;
/// Higher ones take hundreds of mebibytes.
const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = 1..=19;

/// What compression has to gain before it is worth its CPU time, which somebody else may want.
const WORTH: f64 = 1.25;

/// A link that takes more than this is bound by CPU time, not by the network: a gibibyte over QUIC costs
/// both ends together more than a second of it, and compression would only take that away.
const BOUND_BY_CPU: f64 = 250e6;

/// What is known of a method: how fast it is, and what it leaves of pages like these.
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

/// The method for the next run. The link and the thread that compresses work side by side, so a byte
/// takes as long as the slower of the two.
pub(super) fn choose(asked: Compression, known: &Known) -> Method {
    match asked {
        Compression::None => Method::Raw,
        Compression::Lz4 => Method::Lz4,
        Compression::Zstd(level) => Method::Zstd(level),
        Compression::Auto => {
            let Some(link) = known.link.filter(|link| *link < BOUND_BY_CPU) else {
                return Method::Raw;
            };
            let time = |seen: Seen| (1.0 / seen.speed).max(seen.ratio / link);
            let (lz4, zstd) = (time(known.lz4), time(known.zstd));
            let (method, best) =
                if zstd < lz4 { (Method::Zstd(ZSTD_LEVEL), zstd) } else { (Method::Lz4, lz4) };
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
        let rows = [
            // Known, link in MB/s: method.
            (text, None, Method::Raw),
            (text, Some(12.0), Method::Zstd(ZSTD_LEVEL)),
            (text, Some(120.0), Method::Zstd(ZSTD_LEVEL)),
            (text, Some(240.0), Method::Lz4),
            (text, Some(500.0), Method::Raw),
            (text, Some(700.0), Method::Raw),
            (text, Some(2000.0), Method::Raw),
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
        assert_eq!(choose(Compression::Lz4, &noise), Method::Lz4);
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
