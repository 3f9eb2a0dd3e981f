use pages::{PAGE_SIZE, PageIndex, TaskId};

use super::wire::tests::header;
use super::*;

const IMAGE: u64 = (7 << 8) | 1;
const ADD: u32 = (4 << 16) | 6;

/// Keeps everything.
#[derive(Default)]
struct Kept {
    runs: Vec<(SpaceId, PageRange, Whereabouts)>,
    bytes: Vec<u8>,
    open: Option<SpaceId>,
    closed: bool,
    full_after: Option<usize>,
}

impl Store for Kept {
    fn open(&mut self, space: SpaceId) -> io::Result<()> {
        self.open = Some(space);
        Ok(())
    }

    fn run(&mut self, pages: PageRange, place: Whereabouts) -> io::Result<bool> {
        self.runs.push((self.open.expect("opened"), pages, place));
        Ok(true)
    }

    fn bytes(&mut self, pages: PageRange, bytes: &[u8]) -> io::Result<()> {
        assert_eq!(pages.bytes().0, bytes.len() as u64);
        self.bytes.extend(bytes);
        match self.full_after {
            Some(most) if self.bytes.len() > most => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        self.closed = true;
        Ok(())
    }
}

fn range(start: u64, count: u64) -> PageRange {
    PageRange::new(PageIndex(start), PageCount(count)).expect("a range")
}

/// What a client of that size writes: a question, an image, 70 pages, 2 that stay, the end.
fn session(size: HeaderSize) -> Vec<u8> {
    let mut out = header(size, 5, 0, 0, IMAGE);
    out.extend(header(size, 4, 0, 0, IMAGE));
    out.extend(header(size, ADD, 70, 0x10_000, 0));
    out.extend((0..70 * PAGE_SIZE).map(|at| u8::try_from(at / PAGE_SIZE).expect("small")));
    out.extend(header(size, (2 << 16) | 6, 2, 0x80_000, 0));
    out.extend(header(size, 0x1024, 0, 0, 0));
    out
}

/// Serves what `said` is, and tells what was answered. The client writes from a thread of its own,
/// in pieces of `step`, and then says no more.
fn served(
    said: Vec<u8>,
    step: usize,
    store: &mut dyn Store,
) -> (Result<Option<HeaderSize>, PageServerError>, Vec<u8>) {
    let (mut client, server) = UnixStream::pair().expect("a pair");
    let writer = client.try_clone().expect("a second end");
    let writing = std::thread::spawn(move || {
        let mut writer = writer;
        for piece in said.chunks(step) {
            if writer.write_all(piece).is_err() {
                break;
            }
        }
        let _ = writer.shutdown(std::net::Shutdown::Write);
    });
    let served = serve(server, store);
    let mut answers = Vec::new();
    let _ = client.read_to_end(&mut answers);
    writing.join().expect("written");
    (served, answers)
}

const YES: [u8; 9] = [0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn both_sizes_are_served_however_their_bytes_arrive() {
    for size in [HeaderSize::Short, HeaderSize::Long] {
        for step in [1_000, 4_096, 100_000, 1_000_000] {
            let mut kept = Kept::default();
            let (served, answers) = served(session(size), step, &mut kept);
            assert_eq!(served.expect("served"), Some(size));
            assert_eq!(answers, YES);
            let whose = SpaceId::Process(TaskId(7));
            assert_eq!(
                kept.runs,
                [
                    (whose, range(0x10, 70), Whereabouts::Here),
                    (whose, range(0x80, 2), Whereabouts::Later)
                ]
            );
            assert_eq!(kept.bytes.len(), 70 * PAGE_SIZE);
            assert!(
                kept.bytes.chunks(PAGE_SIZE).zip(0..).all(|(page, at)| page == [at; PAGE_SIZE])
            );
            assert!(kept.closed);
        }
    }
}

#[test]
fn maps_are_kept_without_pages() {
    for size in [HeaderSize::Short, HeaderSize::Long] {
        let mut maps = PageMaps::default();
        let (served, answers) = served(session(size), 100_000, &mut maps);
        served.expect("served");
        assert_eq!(answers, YES);
        let spaces: Vec<_> = maps.into_spaces().collect();
        let pages = [range(0x10, 70), range(0x80, 2)].into_iter().collect();
        assert_eq!(spaces, [(SpaceId::Process(TaskId(7)), pages)]);
    }
}

#[test]
fn a_dump_without_pages_ends_well() {
    for size in [HeaderSize::Short, HeaderSize::Long] {
        let mut kept = Kept::default();
        let (served, answers) = served(header(size, 0x1023, 0, 0, 0), 64, &mut kept);
        assert_eq!(served.expect("served"), None);
        assert_eq!(answers, [0; 4]);
        assert!(kept.closed);
    }
}

/// A client that ends anywhere before its last word is told no, and nothing counts as complete.
#[test]
fn every_early_end_is_an_error() {
    for size in [HeaderSize::Short, HeaderSize::Long] {
        let whole = session(size);
        let header = size.bytes();
        let pages = 3 * header + 70 * PAGE_SIZE;
        let near = |at: usize| at.saturating_sub(2)..=at + 2;
        let cuts = [0, header, 2 * header, 3 * header, pages, pages + header].into_iter();
        for cut in cuts.flat_map(near).filter(|cut| *cut + 8 < whole.len()) {
            for maps in [true, false] {
                let (mut kept, mut only) = (Kept::default(), PageMaps::default());
                let store: &mut dyn Store = if maps { &mut only } else { &mut kept };
                let (served, _) = served(whole[..cut].to_vec(), 1 << 20, store);
                assert!(matches!(served, Err(PageServerError::Link(_))), "{cut}: {served:?}");
                assert!(!kept.closed, "{cut}");
            }
        }
    }
}

#[test]
fn what_cannot_be_kept_ends_in_no() {
    let mut kept = Kept { full_after: Some(100_000), ..Kept::default() };
    let (served, answers) = served(session(HeaderSize::Short), 1 << 20, &mut kept);
    assert!(matches!(served, Err(PageServerError::Store(_))), "{served:?}");
    // The client may see its socket closed with bytes unread before it reads the answer.
    assert!(answers.is_empty() || answers.ends_with(&[255; 4]), "{answers:?}");
    assert!(!kept.closed);
}

#[test]
fn pages_of_nobody_are_refused() {
    let size = HeaderSize::Short;
    let mut said = header(size, 5, 0, 0, IMAGE);
    said.extend(header(size, ADD, 1, 0x10_000, 0));
    let (served, _) = served(said, 64, &mut Kept::default());
    assert!(matches!(served, Err(PageServerError::Nowhere)), "{served:?}");
}
