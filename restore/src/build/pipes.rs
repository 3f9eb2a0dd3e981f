//! Pipes, with what was in them; those with a name too.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::{AsFd, OwnedFd};

use image::state::{File, FileId, FileKind, PipeBuffer, PipeId};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{S_IFIFO, S_IFMT};
use nix::sys::stat::fstat;
use nix::unistd::{pipe2, write};
use tracee::host::bytes_waiting;

use super::files::{View, open_quietly, reopen, status_flags};
use crate::error::{BadCheckpoint, Error, Result, errno_of};

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

    /// Opens every description among `files` of a pipe that has a name.
    ///
    /// Such a pipe is there as long as anybody has it open: what it holds when it is opened here,
    /// somebody on this host has put there, and stays as it is.
    pub(crate) fn open_fifos(
        &self,
        files: &[&File],
        view: &View,
        open: &mut HashMap<FileId, OwnedFd>,
    ) -> Result<()> {
        // With both ends held nobody waits for another end, and no content is lost.
        let mut held: HashMap<PipeId, OwnedFd> = HashMap::new();
        for file in files {
            let FileKind::Fifo(fifo) = &file.kind else { continue };
            if !fifo.path.starts_with('/') || fifo.path.contains('\0') {
                return Err(BadCheckpoint::FilePath(file.id).into());
            }
            let path = view.path(&fifo.path);
            let failed = |act| {
                let path = path.clone();
                move |errno| Error::Path { act, path, errno }
            };
            if let Entry::Vacant(place) = held.entry(fifo.pipe) {
                let both = open_quietly(&path, OFlag::O_RDWR | OFlag::O_NONBLOCK)
                    .map_err(failed("open"))?;
                let found = fstat(&both).map_err(failed("look at"))?.st_mode;
                if found & S_IFMT != S_IFIFO || fifo.mode.is_some_and(|mode| mode != found) {
                    let (what, wanted) = ("mode", fifo.mode.unwrap_or(S_IFIFO).into());
                    let found = found.into();
                    return Err(Error::Differs { path: path.clone(), what, wanted, found });
                }
                let empty = bytes_waiting(both.as_fd())
                    .map_err(|error| failed("look into")(errno_of(&error)))?
                    == 0;
                if let Some(buffer) = self.buffers.get(&fifo.pipe).filter(|_| empty) {
                    fill(&both, buffer).map_err(failed("fill"))?;
                }
                place.insert(both);
            }
            let flags = status_flags(file.flags);
            open.insert(file.id, open_quietly(&path, flags).map_err(failed("open"))?);
        }
        Ok(())
    }

    fn make(&self, pipe: PipeId) -> nix::Result<(OwnedFd, OwnedFd)> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        if let Some(buffer) = self.buffers.get(&pipe) {
            fill(&writer, buffer)?;
        }
        Ok((reader, writer))
    }
}

/// Gives a pipe the capacity and the content it had. `writer` must not wait.
fn fill(writer: &OwnedFd, buffer: &PipeBuffer) -> nix::Result<()> {
    let capacity = i32::try_from(buffer.capacity).map_err(|_| Errno::EINVAL)?;
    match fcntl(writer, FcntlArg::F_SETPIPE_SZ(capacity)) {
        // Above pipe-max-size without CAP_SYS_RESOURCE: good enough if the bytes fit.
        Err(Errno::EPERM) => tracing::warn!(capacity, "pipe keeps the default capacity"),
        other => drop(other?),
    }
    let mut rest = buffer.bytes.as_slice();
    while !rest.is_empty() {
        let written = write(writer, rest)?;
        rest = &rest[written..];
    }
    Ok(())
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
    fn a_pipe_with_a_name_is_filled_unless_somebody_has_filled_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        let fifo = image::state::Fifo {
            pipe: PipeId(1),
            path: path.to_str().expect("UTF-8").to_owned(),
            mode: Some(0o10_700),
        };
        let end = |id, flags| File { kind: FileKind::Fifo(fifo.clone()), ..end(id, flags) };
        let files = [end(1, OFlag::O_RDONLY), end(2, OFlag::O_WRONLY | OFlag::O_NONBLOCK)];
        let buffers = [PipeBuffer { pipe: PipeId(1), capacity: 8192, bytes: vec![7; 5000] }];
        let pipes = Pipes::new(&buffers);
        let mut open = HashMap::new();
        for _ in 0..2 {
            // The second time the first pipe is still there, and full.
            let all = [&files[0], &files[1]];
            pipes.open_fifos(&all, &View::default(), &mut open).expect("opened");
            assert_eq!(bytes_waiting(open[&FileId(1)].as_fd()).ok(), Some(5000));
        }
        let flags = |id| fcntl(&open[&FileId(id)], FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        assert!(!flags(1).expect("flags").contains(OFlag::O_NONBLOCK));
        assert!(flags(2).expect("flags").contains(OFlag::O_NONBLOCK | OFlag::O_WRONLY));
        assert_eq!(fcntl(&open[&FileId(1)], FcntlArg::F_GETPIPE_SZ), Ok(8192));
        open.clear();
        std::fs::remove_file(&path).expect("gone");
        std::fs::write(&path, "").expect("no fifo");
        let outcome = pipes.open_fifos(&[&files[0]], &View::default(), &mut open);
        assert!(matches!(outcome, Err(Error::Differs { what: "mode", .. })), "{outcome:?}");
    }

    #[test]
    fn more_than_a_pipe_holds_is_refused() {
        let buffers = [PipeBuffer { pipe: PipeId(1), capacity: 4096, bytes: vec![7; 5000] }];
        let files = [end(1, OFlag::O_RDONLY)];
        let outcome = Pipes::new(&buffers).make_all(&[&files[0]], &mut HashMap::new());
        assert!(matches!(outcome, Err(Error::Object { errno: Errno::EAGAIN, .. })));
    }
}
