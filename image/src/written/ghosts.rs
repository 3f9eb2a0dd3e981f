//! Files without a name: `remap-fpath.img`, `ghost-file-N.img`.

use std::collections::{BTreeSet, HashMap};

use pages::SharedId;

use super::{Reader, Writer};
use crate::error::{BadField, BadImage, FrameFlaw};
use crate::frame::{FrameReader, FrameWriter};
use crate::kind::ImageKind;
use crate::messages::{GhostChunkEntry, GhostFileEntry, RemapFilePathEntry, RemapType, Timeval};
use crate::state::check::USER_END;
use crate::state::{FileId, FileKind, Ghost, GhostBody, GhostId, HugeSize};

/// Regular files of three pages and more are written as chunks, smaller ones as they are.
const CHUNKS_FROM: u64 = 12288;
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

pub(super) fn write(writer: &mut Writer<'_>) {
    let checkpoint = writer.checkpoint;
    let remap = |(file, ghost): (FileId, GhostId)| RemapFilePathEntry {
        orig_id: file.0,
        remap_id: ghost.0,
        remap_type: Some(RemapType::Ghost as i32),
    };
    let mut remaps = checkpoint
        .files
        .iter()
        .filter_map(|file| match &file.kind {
            FileKind::Regular(regular) => Some((file.id, regular.ghost?)),
            _ => None,
        })
        .peekable();
    if remaps.peek().is_some() {
        writer.many(ImageKind::RemapPaths, 0, remaps.map(remap));
    }
    for ghost in &checkpoint.ghosts {
        writer.images.push((ImageKind::GhostFile.name(ghost.id.0), to_image(ghost)));
    }
}

fn to_image(ghost: &Ghost) -> Vec<u8> {
    let time = |(tv_sec, tv_usec)| Some(Timeval { tv_sec, tv_usec });
    let in_chunks = ghost.mode & TYPE == REGULAR && ghost.size >= CHUNKS_FROM;
    let mut image = FrameWriter::new(ImageKind::GhostFile);
    image.entry(&GhostFileEntry {
        uid: ghost.uid,
        gid: ghost.gid,
        mode: ghost.mode,
        dev: Some(0),
        ino: Some(u64::from(ghost.id.0)),
        rdev: None,
        atim: time(ghost.accessed),
        mtim: time(ghost.modified),
        chunks: in_chunks.then_some(true),
        size: Some(ghost.size),
        symlnk_target: None,
        named: ghost.named.then_some(true),
        paged: ghost.paged.map(|id| id.0),
        huge: ghost.huge.map(HugeSize::memfd_flags),
    });
    if in_chunks {
        for (off, bytes) in &ghost.body.chunks {
            image.entry(&GhostChunkEntry { len: bytes.len() as u64, off: *off }).raw(bytes);
        }
    } else if ghost.mode & TYPE == REGULAR {
        image.raw(&flat(ghost));
    }
    image.finish()
}

/// The content of a small file with its holes filled.
fn flat(ghost: &Ghost) -> Vec<u8> {
    let length = |bytes: u64| usize::try_from(bytes).expect("small files are small");
    let mut content = vec![0; length(ghost.size)];
    for (offset, bytes) in &ghost.body.chunks {
        let start = length(*offset);
        content[start..start + bytes.len()].copy_from_slice(bytes);
    }
    content
}

/// Which file has which ghost, and the ghosts.
pub(super) fn read(
    reader: &Reader<'_>,
) -> Result<(HashMap<FileId, GhostId>, Vec<Ghost>), BadImage> {
    let mut remaps = HashMap::new();
    reader.each(ImageKind::RemapPaths, 0, |entry: RemapFilePathEntry| {
        let what = match RemapType::try_from(entry.remap_type.unwrap_or_default()) {
            Ok(RemapType::Ghost) => {
                match remaps.insert(FileId(entry.orig_id), GhostId(entry.remap_id)) {
                    None => return Ok(()),
                    Some(_) => return Err(BadField::twice("orig_id", "file", entry.orig_id)),
                }
            }
            Ok(RemapType::Linked) => "a file whose name is gone while other links are not",
            Ok(RemapType::Procfs) => "a file of a dead process in /proc",
            Err(_) => return Err(BadField::missing("remap_type")),
        };
        Err(BadField::unsupported("remap_type", what))
    })?;
    let ids: BTreeSet<GhostId> = remaps.values().copied().collect();
    let ghost_of = |name| match ImageKind::of_name(name) {
        Some((ImageKind::GhostFile, number)) => Some(GhostId(number)),
        _ => None,
    };
    if reader.images.iter().filter_map(|(name, _)| ghost_of(name)).any(|id| !ids.contains(&id)) {
        return Err(BadImage::Missing { image: ImageKind::RemapPaths.name(0) });
    }
    let ghosts = ids.into_iter().map(|id| read_ghost(reader, id)).collect::<Result<_, _>>()?;
    Ok((remaps, ghosts))
}

fn read_ghost(reader: &Reader<'_>, id: GhostId) -> Result<Ghost, BadImage> {
    let missing = || BadImage::Missing { image: ImageKind::GhostFile.name(id.0) };
    let mut frame = reader.open(ImageKind::GhostFile, id.0)?.ok_or_else(missing)?;
    let entry: GhostFileEntry = frame.message()?.ok_or_else(missing)?;
    let at = |lie: BadField| lie.at(ImageKind::GhostFile.name(id.0), 1);
    let body = if entry.chunks == Some(true) {
        read_chunks(&mut frame)?
    } else {
        let content = frame.rest()?;
        let chunks = if content.is_empty() { Vec::new() } else { vec![(0, content)] };
        GhostBody { chunks }
    };
    let end = body.chunks.last().map_or(0, |(offset, bytes)| offset + bytes.len() as u64);
    let size = entry.size.unwrap_or(end);
    if size < end || size >= USER_END {
        return Err(at(BadField::value("size", size, "a size that holds the content")));
    }
    match entry.mode & TYPE {
        REGULAR if entry.chunks != Some(true) && size != end => {
            return Err(at(BadField::value("size", size, "the length of what follows")));
        }
        DIRECTORY if end > 0 => {
            return Err(at(BadField::value("mode", entry.mode, "a file that has content")));
        }
        REGULAR | DIRECTORY => {}
        _ => {
            return Err(at(BadField::unsupported("mode", "a device, pipe or link without a name")));
        }
    }
    let huge = match entry.huge {
        None => None,
        Some(flags) => {
            Some(HugeSize::in_flags(flags).filter(|_| entry.paged.is_some()).ok_or_else(|| {
                at(BadField::value("huge", flags, "a size of huge pages, which come as pages"))
            })?)
        }
    };
    let time = |time: Option<Timeval>| time.map_or((0, 0), |time| (time.tv_sec, time.tv_usec));
    Ok(Ghost {
        id,
        uid: entry.uid,
        gid: entry.gid,
        mode: entry.mode,
        size,
        accessed: time(entry.atim),
        modified: time(entry.mtim),
        body,
        named: entry.named.unwrap_or(false),
        paged: entry.paged.map(SharedId),
        huge,
    })
}

fn read_chunks(frame: &mut FrameReader<&[u8]>) -> Result<GhostBody, BadImage> {
    let mut chunks = Vec::new();
    let mut end = 0_u64;
    while let Some(GhostChunkEntry { len, off }) = frame.message()? {
        let next = off.checked_add(len).filter(|next| *next < USER_END);
        match next {
            Some(next) if off >= end && len > 0 => end = next,
            _ => {
                let lie = BadField::value("off", off, "a place after the chunk before");
                return Err(lie.at(frame.image(), frame.entry_number()));
            }
        }
        let bytes = frame.raw(len)?;
        if bytes.len() as u64 != len {
            return Err(frame.flaw(FrameFlaw::Truncated { what: "a chunk" }));
        }
        chunks.push((off, bytes));
    }
    Ok(GhostBody { chunks })
}
