//! Compressing runs, and undoing it within bounds.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lz4::block::{CompressionMode, compress_bound, compress_to_buffer};
use nix::time::{ClockId, clock_gettime};
use pages::PAGE_SIZE;

use super::policy::{self, Compression, Known, Method, Seen};
use crate::PeerMisbehaved;
use crate::wire::{Encoding, Features, PageRun};

/// Shorter runs are not worth it.
const LEAST: usize = 2 * PAGE_SIZE;
/// What is compressed to learn how a method does: the first pages of a run.
const SAMPLE: usize = 4 * PAGE_SIZE;
/// A long run is judged by so many single pages of it first, equally far from each other.
const JUDGES: usize = 8;
/// A run that keeps more than this is sent as it is: undoing it costs the other end too.
const KEPT: f64 = 0.9;
/// How many raw bytes a measurement of the link takes.
const STRETCH: usize = 8 << 20;
/// Every so many runs a method that is not in use is tried on a sample, or what is known grows old.
const TRY_EVERY: u32 = 32;

/// Compresses runs as long as it makes the whole faster. Lives with the thread that reads pages.
#[derive(Debug)]
pub struct Squeezer {
    asked: Compression,
    allowed: Features,
    known: Known,
    runs: u32,
    stretch: Stretch,
    /// Where LZ4 writes; kept, for new memory costs as much as it does.
    scratch: Vec<u8>,
}

/// What was sent since the link was last measured.
#[derive(Debug)]
struct Stretch {
    began: Instant,
    raw: usize,
    sent: usize,
    waited: Duration,
}

impl Stretch {
    fn new() -> Self {
        Self { began: Instant::now(), raw: 0, sent: 0, waited: Duration::ZERO }
    }
}

impl Squeezer {
    /// Compresses as `asked`, with what both ends know.
    pub fn new(asked: Compression, agreed: Features) -> Self {
        let known = Known {
            link: None,
            lz4: Seen { speed: 2.4e9, ratio: 0.5 },
            zstd: Seen { speed: 300e6, ratio: 0.4 },
        };
        Self {
            asked,
            allowed: agreed,
            known,
            runs: 0,
            stretch: Stretch::new(),
            scratch: Vec::new(),
        }
    }

    /// The same pages, in fewer bytes if that is worth it.
    pub fn run(&mut self, run: PageRun, bytes: Bytes) -> (PageRun, Bytes) {
        let raw = bytes.len();
        let (run, bytes) = match run.encoding() {
            Encoding::Raw if raw >= LEAST => self.squeezed(run, &bytes).unwrap_or((run, bytes)),
            _ => (run, bytes),
        };
        self.stretch.raw += raw;
        self.stretch.sent += bytes.len();
        (run, bytes)
    }

    /// How long the last run had to wait for the link.
    pub fn waited(&mut self, time: Duration) {
        let stretch = &mut self.stretch;
        stretch.waited += time;
        if stretch.raw >= STRETCH {
            let sent = float(stretch.sent);
            self.known.link = policy::link_rate(sent, stretch.began.elapsed(), stretch.waited);
            self.stretch = Stretch::new();
        }
    }

    fn squeezed(&mut self, run: PageRun, bytes: &[u8]) -> Option<(PageRun, Bytes)> {
        if self.asked == Compression::None {
            return None;
        }
        if self.asked == Compression::Auto {
            self.try_out(bytes);
        }
        let method = policy::choose(self.asked, &self.known);
        let encoding = self.encoding(method)?;
        if bytes.len() > 2 * JUDGES * PAGE_SIZE && !self.looks_small(method, bytes)? {
            return None;
        }
        let began = cpu_time();
        let small = self.compress(method, bytes)?;
        self.learn(method, bytes.len(), small.len(), cpu_time().saturating_sub(began));
        if float(small.len()) > KEPT * float(bytes.len()) {
            return None;
        }
        let run = PageRun::new(run.space(), run.range(), encoding, small.len()).ok()?;
        Some((run, small))
    }

    /// Looks now and then how the methods do on pages like these.
    fn try_out(&mut self, bytes: &[u8]) {
        self.runs = self.runs.wrapping_add(1);
        if self.runs % TRY_EVERY != 1 {
            return;
        }
        let sample = &bytes[..bytes.len().min(SAMPLE)];
        let slow = self.known.link.map(|_| Method::Zstd(policy::ZSTD_LEVEL));
        for method in [Some(policy::THOROUGH), slow].into_iter().flatten() {
            let began = cpu_time();
            if let (Some(_), Some(small)) = (self.encoding(method), self.compress(method, sample)) {
                let time = cpu_time().saturating_sub(began);
                self.learn(method, sample.len(), small.len(), time);
            }
        }
    }

    fn looks_small(&mut self, method: Method, bytes: &[u8]) -> Option<bool> {
        let step = bytes.len() / JUDGES / PAGE_SIZE * PAGE_SIZE;
        let mut small = 0;
        for judge in 0..JUDGES {
            small += self.compress(method, &bytes[judge * step..][..PAGE_SIZE])?.len();
        }
        Some(float(small) <= KEPT * float(JUDGES * PAGE_SIZE))
    }

    /// LZ4 here is the library in C, at twice the speed of the one in Rust, which undoes what the
    /// network brings.
    fn compress(&mut self, method: Method, bytes: &[u8]) -> Option<Bytes> {
        match method {
            Method::Raw => None,
            Method::Lz4(acceleration) => {
                let room = compress_bound(bytes.len()).ok()?.max(self.scratch.len());
                self.scratch.resize(room, 0);
                let mode = Some(CompressionMode::FAST(acceleration));
                let length = compress_to_buffer(bytes, mode, false, &mut self.scratch).ok()?;
                Some(Bytes::copy_from_slice(&self.scratch[..length]))
            }
            Method::Zstd(level) => zstd::bulk::compress(bytes, level).ok().map(Bytes::from),
        }
    }

    fn learn(&mut self, method: Method, raw: usize, small: usize, time: Duration) {
        let ratio = float(small) / float(raw);
        // What cannot be compressed is not, and says nothing about what can be.
        if ratio > KEPT {
            return;
        }
        let seen = match method {
            Method::Raw => return,
            Method::Lz4(_) => &mut self.known.lz4,
            Method::Zstd(_) => &mut self.known.zstd,
        };
        let speed = float(raw) / time.as_secs_f64().max(1e-9);
        seen.speed += (speed - seen.speed) / 8.0;
        seen.ratio += (ratio - seen.ratio) / 8.0;
    }

    /// How the wire calls a method, if both ends know it.
    fn encoding(&self, method: Method) -> Option<Encoding> {
        let (encoding, feature) = match method {
            Method::Raw => return None,
            Method::Lz4(_) => (Encoding::Lz4, Features::LZ4),
            Method::Zstd(_) => (Encoding::Zstd, Features::ZSTD),
        };
        self.allowed.contains(feature).then_some(encoding)
    }
}

/// What this thread has used of a processor: a method is not slow because others run too.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Undoes a run that was received: into exactly as many bytes as its pages have, which the limits of a
/// run bound.
pub(super) fn undo(run: PageRun, bytes: &[u8]) -> Result<Bytes, PeerMisbehaved> {
    let (space, encoding) = (run.space(), run.encoding());
    let broken = || PeerMisbehaved::BrokenRun { space, encoding };
    let length = usize::try_from(run.range().bytes().0).map_err(|_| broken())?;
    let mut raw = vec![0; length];
    let written = match encoding {
        Encoding::Lz4 => lz4_flex::block::decompress_into(bytes, &mut raw).map_err(|_| broken())?,
        Encoding::Zstd => {
            zstd::bulk::decompress_to_buffer(bytes, &mut raw[..]).map_err(|_| broken())?
        }
        Encoding::Raw | Encoding::Zero => return Err(broken()),
    };
    if written == length { Ok(raw.into()) } else { Err(broken()) }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
const fn float(bytes: usize) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use pages::{PageCount, PageIndex, PageRange, SpaceId, TaskId};

    use super::*;
    use crate::encode::{Content, decode};

    const SPACE: SpaceId = SpaceId::Process(TaskId(1));
    const BOTH: Features = Features::LZ4.with(Features::ZSTD);

    fn run(pages: u64) -> PageRun {
        let range = PageRange::new(PageIndex(7), PageCount(pages)).expect("a range");
        PageRun::raw(SPACE, range).expect("a run")
    }

    fn text(length: usize) -> Bytes {
        (0..length).map(|at| b"the quick brown fox "[at * at % 97 % 20]).collect()
    }

    fn noise(length: usize) -> Bytes {
        let mut seed = 1_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed.to_le_bytes()[7]
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn what_was_squeezed_comes_back() {
        for (asked, encoding) in [
            (Compression::Lz4, Encoding::Lz4),
            (Compression::Zstd(1), Encoding::Zstd),
            (Compression::Zstd(9), Encoding::Zstd),
        ] {
            for pages in [2, 3, 16, 256] {
                let run = run(pages);
                let bytes = text(run.byte_len());
                let (small, squeezed) = Squeezer::new(asked, BOTH).run(run, bytes.clone());
                assert_eq!((small.encoding(), small.range()), (encoding, run.range()));
                assert_eq!(small.byte_len(), squeezed.len());
                assert!(squeezed.len() < bytes.len() / 2, "{asked:?} {pages}");
                assert_eq!(decode(small, squeezed), Ok(Content::Bytes(bytes)));
            }
        }
    }

    #[test]
    fn what_is_not_worth_it_stays() {
        let (one, many) = (run(1), run(64));
        for asked in [Compression::Lz4, Compression::Zstd(3), Compression::Auto, Compression::None]
        {
            let mut squeezer = Squeezer::new(asked, BOTH);
            assert_eq!(squeezer.run(one, text(one.byte_len())).0, one, "one page");
            assert_eq!(squeezer.run(many, noise(many.byte_len())).0, many, "noise");
        }
        let mut squeezer = Squeezer::new(Compression::None, BOTH);
        assert_eq!(squeezer.run(many, text(many.byte_len())).0, many, "not asked for");
        let mut squeezer = Squeezer::new(Compression::Auto, BOTH);
        let (small, _) = squeezer.run(many, text(many.byte_len()));
        assert_eq!(
            small.encoding(),
            Encoding::Lz4,
            "nobody waits for the link, and CPU time is saved"
        );
        let mut squeezer = Squeezer::new(Compression::Lz4, Features::ZSTD);
        assert_eq!(squeezer.run(many, text(many.byte_len())).0, many, "the peer does not know it");
    }

    #[test]
    fn a_slow_link_is_noticed() {
        let run = run(256);
        let mut squeezer = Squeezer::new(Compression::Auto, BOTH);
        let bytes = text(run.byte_len());
        for _ in 0..8 {
            squeezer.run(run, bytes.clone());
            squeezer.stretch.began -= Duration::from_secs(1);
            squeezer.waited(Duration::from_secs(1));
        }
        let (small, _) = squeezer.run(run, bytes);
        assert!(matches!(small.encoding(), Encoding::Lz4 | Encoding::Zstd), "{small:?}");
    }

    /// Bombs, lies and garbage are errors, and take no more memory than the run's pages.
    #[test]
    fn broken_runs_are_the_peers_fault() {
        let range = run(2).range();
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).expect("compressed");
        let short = zstd::bulk::compress(&[1; 4096], 1).expect("compressed");
        let long = lz4_flex::block::compress(&[1; 3 * 4096]);
        let rows = [
            (Encoding::Zstd, bomb),
            (Encoding::Zstd, short.clone()),
            (Encoding::Zstd, short[..short.len() - 1].to_vec()),
            (Encoding::Lz4, long),
            (Encoding::Lz4, lz4_flex::block::compress(&[1; 4096])),
            (Encoding::Lz4, noise(500).to_vec()),
            (Encoding::Zstd, noise(500).to_vec()),
        ];
        for (encoding, bytes) in rows {
            let run = PageRun::new(SPACE, range, encoding, bytes.len()).expect("a header");
            let error = decode(run, bytes.into()).expect_err("broken");
            assert!(error.to_string().contains("cannot be undone"), "{error}");
        }
    }
}
