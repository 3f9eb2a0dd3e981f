//! What is in pipes: `pipes-data.img`, and `fifo-data.img` for those that have a name.

use std::collections::HashSet;

use super::{Reader, Writer};
use crate::error::{BadField, BadImage};
use crate::frame::FrameWriter;
use crate::kind::ImageKind;
use crate::messages::PipeDataEntry;
use crate::state::{FileKind, PipeBuffer, PipeId};

pub(super) fn write(writer: &mut Writer<'_>) {
    let fifos: HashSet<PipeId> = writer
        .checkpoint
        .files
        .iter()
        .filter_map(|file| match &file.kind {
            FileKind::Fifo(fifo) => Some(fifo.pipe),
            _ => None,
        })
        .collect();
    let (named, nameless): (Vec<&PipeBuffer>, Vec<&PipeBuffer>) =
        writer.checkpoint.pipes.iter().partition(|buffer| fifos.contains(&buffer.pipe));
    for (kind, pipes) in [(ImageKind::PipesData, nameless), (ImageKind::FifoData, named)] {
        if !pipes.is_empty() {
            writer.images.push((kind.name(0), contents(kind, &pipes)));
        }
    }
}

fn contents(kind: ImageKind, pipes: &[&PipeBuffer]) -> Vec<u8> {
    let mut image = FrameWriter::new(kind);
    for pipe in pipes {
        let bytes = u32::try_from(pipe.bytes.len()).expect("a pipe holds less than 4 GiB");
        let entry = PipeDataEntry { pipe_id: pipe.pipe.0, bytes, size: Some(pipe.capacity) };
        image.entry(&entry).raw(&pipe.bytes);
    }
    image.finish()
}

/// A pipe's capacity unless it was changed, pipe(7).
const PIPE_CAPACITY: u32 = 65_536;

/// Those without a name first.
pub(super) fn read(reader: &Reader<'_>) -> Result<Vec<PipeBuffer>, BadImage> {
    let mut pipes = Vec::new();
    for kind in [ImageKind::PipesData, ImageKind::FifoData] {
        let Some(mut frame) = reader.open(kind, 0)? else { continue };
        while let Some(PipeDataEntry { pipe_id, bytes, size }) = frame.message()? {
            let capacity = size.unwrap_or(PIPE_CAPACITY);
            if bytes > capacity {
                let lie = BadField::value("bytes", bytes, "no more than the pipe holds");
                return Err(lie.at(frame.image(), frame.entry_number()));
            }
            let bytes = frame.raw(u64::from(bytes))?;
            pipes.push(PipeBuffer { pipe: PipeId(pipe_id), capacity, bytes });
        }
    }
    Ok(pipes)
}
