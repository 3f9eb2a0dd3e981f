//! Pages images of a directory, written and read as a stream: no more than one buffer in memory.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use pages::{PAGE_SIZE, PageCount, PageRange, SpaceId};

use crate::directory::{create_file, file_name, make_directory, missing, open_file};
use crate::error::{BadField, BadImage, DirectoryError, FrameFlaw};
use crate::frame::FrameWriter;
use crate::kind::ImageKind;
use crate::pagemap::{self, PagemapReader, Place};

/// Writes the saved pages of one space: `pagemap-….img` and `pages-….img`.
#[derive(Debug)]
pub struct PagesWriter {
    entries: FrameWriter,
    open_run: Option<PageRange>,
    written: PageCount,
    map: BufWriter<File>,
    map_path: PathBuf,
    pages: File,
    pages_path: PathBuf,
}

impl PagesWriter {
    /// Starts both images in `directory`, which is made unless it exists. `pages_id` counts the
    /// pages images of the directory, from 1.
    pub fn create(directory: &Path, space: SpaceId, pages_id: u32) -> Result<Self, DirectoryError> {
        make_directory(directory)?;
        let map_path = directory.join(pagemap::image_name(space));
        let pages_path = directory.join(ImageKind::Pages.name(pages_id));
        Ok(Self {
            entries: pagemap::start(pages_id),
            open_run: None,
            written: PageCount(0),
            map: BufWriter::new(create_file(&map_path)?),
            map_path,
            pages: create_file(&pages_path)?,
            pages_path,
        })
    }

    /// Adds a run of pages, which must come after all runs before it.
    ///
    /// # Panics
    /// If the run is out of order, or `bytes` is not as long as the run: a bug of the caller's.
    pub fn push(&mut self, range: PageRange, bytes: &[u8]) -> Result<(), DirectoryError> {
        assert_eq!(bytes.len() as u64, range.bytes().0, "a run and its bytes are of one length");
        self.pages.write_all(bytes).map_err(DirectoryError::os("write", &self.pages_path))?;
        self.written = self.written + range.count();
        let joined = match self.open_run {
            None => range,
            Some(run) if run.end() == range.start() => {
                PageRange::between(run.start(), range.end()).expect("both runs have pages")
            }
            Some(run) => {
                assert!(run.end() < range.start(), "{range:?} comes after {run:?}");
                pagemap::add(&mut self.entries, run);
                self.flush_entries()?;
                range
            }
        };
        self.open_run = Some(joined);
        Ok(())
    }

    /// Completes both images; returns how many pages they hold.
    pub fn finish(mut self) -> Result<PageCount, DirectoryError> {
        if let Some(run) = self.open_run.take() {
            pagemap::add(&mut self.entries, run);
        }
        self.flush_entries()?;
        self.map.flush().map_err(DirectoryError::os("write", &self.map_path))?;
        Ok(self.written)
    }

    fn flush_entries(&mut self) -> Result<(), DirectoryError> {
        let bytes = self.entries.drain();
        self.map.write_all(&bytes).map_err(DirectoryError::os("write", &self.map_path))
    }
}

/// Reads the saved pages of one space back, in ascending order.
#[derive(Debug)]
pub struct PagesReader {
    source: Option<Source>,
    rest: Option<PageRange>,
}

#[derive(Debug)]
struct Source {
    map: PagemapReader<BufReader<File>>,
    pages: File,
    pages_path: PathBuf,
    offset: u64,
}

impl PagesReader {
    /// Opens the images of `space`. A shared object without a pagemap has no pages; a process must
    /// have one.
    pub fn open(directory: &Path, space: SpaceId) -> Result<Self, DirectoryError> {
        let map_path = directory.join(pagemap::image_name(space));
        let map = match open_file(&map_path) {
            Ok(file) => BufReader::new(file),
            Err(error) if not_there(&error) => {
                return match space {
                    SpaceId::Shared(_) => Ok(Self { source: None, rest: None }),
                    SpaceId::Process(_) => Err(missing(&map_path)),
                };
            }
            Err(error) => return Err(error),
        };
        let map = PagemapReader::open(&file_name(&map_path), map)?;
        let pages_path = directory.join(ImageKind::Pages.name(map.pages_id()));
        let pages = open_file(&pages_path).map_err(|error| match not_there(&error) {
            true => missing(&pages_path),
            false => error,
        })?;
        let source = Source { map, pages, pages_path, offset: 0 };
        Ok(Self { source: Some(source), rest: None })
    }

    /// How many pages of `space` the images in `directory` hold.
    pub fn count(directory: &Path, space: SpaceId) -> Result<PageCount, DirectoryError> {
        let Some(mut source) = Self::open(directory, space)?.source else {
            return Ok(PageCount(0));
        };
        let mut count = PageCount(0);
        while let Some(run) = source.next_run()? {
            count = count + run.count();
        }
        Ok(count)
    }

    /// Reads the next pages into the start of `buffer`, as many as are consecutive and fit; `None`
    /// at the end.
    ///
    /// # Panics
    /// If `buffer` holds less than one page: a bug of the caller's.
    pub fn next(&mut self, buffer: &mut [u8]) -> Result<Option<PageRange>, DirectoryError> {
        let most = buffer.len() / PAGE_SIZE;
        assert!(most > 0, "a buffer of at least a page");
        let Some(source) = &mut self.source else { return Ok(None) };
        let run = match self.rest.take() {
            Some(run) => run,
            None => match source.next_run()? {
                Some(run) => run,
                None => return Ok(None),
            },
        };
        let (piece, rest) = run.split_at(PageCount(most as u64));
        self.rest = rest;
        let length = usize::try_from(piece.bytes().0).expect("no longer than the buffer");
        source.read_pages(&mut buffer[..length])?;
        Ok(Some(piece))
    }
}

impl Source {
    fn next_run(&mut self) -> Result<Option<PageRange>, DirectoryError> {
        let Some(run) = self.map.next_run()? else { return Ok(None) };
        let what = match run.place {
            Place::Here => return Ok(Some(run.range)),
            Place::Parent => "a run of pages whose bytes are in a parent set of images",
            Place::Source => "a run of pages that a lazy dump left with its source",
        };
        Err(self.map.lie(BadField::unsupported("flags", what)).into())
    }

    fn read_pages(&mut self, into: &mut [u8]) -> Result<(), DirectoryError> {
        self.pages.read_exact(into).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => DirectoryError::Bad(BadImage::Frame {
                image: file_name(&self.pages_path),
                entry: 0,
                offset: self.offset,
                flaw: FrameFlaw::Truncated { what: "the pages its pagemap tells of" },
            }),
            _ => DirectoryError::os("read", &self.pages_path)(error),
        })?;
        self.offset += into.len() as u64;
        Ok(())
    }
}

fn not_there(error: &DirectoryError) -> bool {
    matches!(error, DirectoryError::Os { source, .. } if source.kind() == ErrorKind::NotFound)
}
