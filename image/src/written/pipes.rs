//! What is in pipes: `pipes-data.img`.

use super::{Reader, Writer};
use crate::error::{BadField, BadImage};
use crate::frame::FrameWriter;
use crate::kind::ImageKind;
use crate::messages::PipeDataEntry;
use crate::state::{PipeBuffer, PipeId};

pub(super) fn write(writer: &mut Writer<'_>) {
    let pipes = &writer.checkpoint.pipes;
    if pipes.is_empty() {
        return;
    }
    let mut image = FrameWriter::new(ImageKind::PipesData);
    for pipe in pipes {
        let bytes = u32::try_from(pipe.bytes.len()).expect("a pipe holds less than 4 GiB");
        let entry = PipeDataEntry { pipe_id: pipe.pipe.0, bytes, size: Some(pipe.capacity) };
        image.entry(&entry).raw(&pipe.bytes);
    }
    writer.images.push((ImageKind::PipesData.name(0), image.finish()));
}

/// A pipe's capacity unless it was changed, pipe(7).
const PIPE_CAPACITY: u32 = 65_536;

pub(super) fn read(reader: &Reader<'_>) -> Result<Vec<PipeBuffer>, BadImage> {
    let Some(mut frame) = reader.open(ImageKind::PipesData, 0)? else { return Ok(Vec::new()) };
    let mut pipes = Vec::new();
    while let Some(PipeDataEntry { pipe_id, bytes, size }) = frame.message()? {
        let capacity = size.unwrap_or(PIPE_CAPACITY);
        if bytes > capacity {
            let lie = BadField::value("bytes", bytes, "no more than the pipe holds");
            return Err(lie.at(frame.image(), frame.entry_number()));
        }
        let bytes = frame.raw(u64::from(bytes))?;
        pipes.push(PipeBuffer { pipe: PipeId(pipe_id), capacity, bytes });
    }
    Ok(pipes)
}
