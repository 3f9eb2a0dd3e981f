//! Pipes, with what was in them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::OwnedFd;

use image::state::{File, FileId, FileKind, PipeBuffer, PipeId};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, write};

use super::files::{reopen, status_flags};
use crate::error::{Error, Result};

/// The pipes of a checkpoint.
pub(crate) struct Pipes<'a> {
    buffers: HashMap<PipeId, &'a PipeBuffer>,
}

impl<'a> Pipes<'a> {
    pub(crate) fn new(buffers: &'a [PipeBuffer]) -> Self {
        Self { buffers: buffers.iter().map(|buffer| (buffer.pipe, buffer)).collect() }
    }

    /// Makes every pipe among `files` and every description of its ends.
    ///
    /// An end that nobody in the tree has is closed afterwards, so the others see what they saw
    /// before: end of file, or a broken pipe.
    pub(crate) fn make_all(
        &self,
        files: &[&File],
        open: &mut HashMap<FileId, OwnedFd>,
    ) -> Result<()> {
        let mut made: HashMap<PipeId, (OwnedFd, OwnedFd)> = HashMap::new();
        for file in files {
            let FileKind::Pipe { pipe } = file.kind else { continue };
            let failed = |act| move |errno| Error::Object { file: file.id, act, errno };
            let (reader, writer) = match made.entry(pipe) {
                Entry::Occupied(made) => made.into_mut(),
                Entry::Vacant(place) => {
                    place.insert(self.make(pipe).map_err(failed("make a pipe"))?)
                }
            };
            let flags = status_flags(file.flags);
            let end = match flags & OFlag::O_ACCMODE {
                OFlag::O_RDONLY => reader,
                _ => writer,
            };
            // A description of its own for each; the first pair is only the root they share.
            open.insert(file.id, reopen(end, flags).map_err(failed("open an end of a pipe"))?);
        }
        Ok(())
    }

    fn make(&self, pipe: PipeId) -> nix::Result<(OwnedFd, OwnedFd)> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let Some(buffer) = self.buffers.get(&pipe) else {
            return Ok((reader, writer));
        };
        let capacity = i32::try_from(buffer.capacity).map_err(|_| Errno::EINVAL)?;
        match fcntl(&writer, FcntlArg::F_SETPIPE_SZ(capacity)) {
            // Above pipe-max-size without CAP_SYS_RESOURCE: good enough if the bytes fit.
            Err(Errno::EPERM) => tracing::warn!(capacity, "pipe keeps the default capacity"),
            other => drop(other?),
        }
        let mut rest = buffer.bytes.as_slice();
        while !rest.is_empty() {
            let written = write(&writer, rest)?;
            rest = &rest[written..];
        }
        Ok((reader, writer))
    }
}

#[cfg(test)]
mod tests {
    use image::state::Owner;
    use nix::unistd::read;

    use super::*;

    fn end(id: u32, flags: OFlag) -> File {
        File {
            id: FileId(id),
            flags: flags.bits().cast_unsigned(),
            owner: Owner::default(),
            kind: FileKind::Pipe { pipe: PipeId(1) },
        }
    }

    #[test]
    fn content_capacity_and_flags_come_back() {
        let buffers = [PipeBuffer { pipe: PipeId(1), capacity: 8192, bytes: vec![7; 5000] }];
        let files = [end(1, OFlag::O_RDONLY | OFlag::O_NONBLOCK), end(2, OFlag::O_WRONLY)];
        let mut open = HashMap::new();
        Pipes::new(&buffers).make_all(&[&files[0], &files[1]], &mut open).expect("a pipe");
        let (reader, writer) = (&open[&FileId(1)], &open[&FileId(2)]);
        assert_eq!(fcntl(reader, FcntlArg::F_GETPIPE_SZ), Ok(8192));
        let flags = |fd| OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).expect("flags"));
        assert!(flags(reader).contains(OFlag::O_NONBLOCK));
        assert!(!flags(writer).contains(OFlag::O_NONBLOCK));
        let mut bytes = [0; 8000];
        assert_eq!(read(reader, &mut bytes), Ok(5000));
        assert_eq!(bytes[..5000], [7; 5000]);
        open.remove(&FileId(2));
        assert_eq!(read(&open[&FileId(1)], &mut bytes), Ok(0), "the writer is gone");
    }

    #[test]
    fn more_than_a_pipe_holds_is_refused() {
        let buffers = [PipeBuffer { pipe: PipeId(1), capacity: 4096, bytes: vec![7; 5000] }];
        let files = [end(1, OFlag::O_RDONLY)];
        let outcome = Pipes::new(&buffers).make_all(&[&files[0]], &mut HashMap::new());
        assert!(matches!(outcome, Err(Error::Object { errno: Errno::EAGAIN, .. })));
    }
}
