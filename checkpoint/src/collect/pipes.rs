//! What is in a pipe: copied with tee(2), so that nothing is taken out.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use image::state::{PipeBuffer, PipeId};
use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, tee};
use tracee::host::{bytes_waiting, pipe_size, set_pipe_size};

/// Reads the pipe behind `end`, a descriptor that can be read from.
pub(super) fn read(pipe: PipeId, end: &OwnedFd) -> io::Result<PipeBuffer> {
    let capacity = pipe_size(end.as_fd())?;
    let waiting = bytes_waiting(end.as_fd())?;
    let mut bytes = Vec::new();
    if waiting > 0 {
        let (mut reader, writer) = io::pipe()?;
        // As many buffers as the pipe has: tee(2) copies buffer by buffer, from the oldest.
        set_pipe_size(writer.as_fd(), capacity)?;
        let copied = loop {
            match tee(end, &writer, waiting, SpliceFFlags::SPLICE_F_NONBLOCK) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        bytes.resize(copied, 0);
        reader.read_exact(&mut bytes)?;
        if copied != waiting {
            return Err(io::Error::other(format!("{copied} of {waiting} bytes could be copied")));
        }
    }
    Ok(PipeBuffer { pipe, capacity, bytes })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_full_pipe_is_copied_and_stays_full() {
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        set_pipe_size(writer.as_fd(), 1 << 18).expect("capacity");
        let sent: Vec<u8> = (0..=250).cycle().take(200_000).collect();
        // Odd pieces make buffers that are not full.
        sent.chunks(5000).for_each(|piece| writer.write_all(piece).expect("write"));
        let copy = reader.try_clone().expect("dup").into();
        let buffer = read(PipeId(1), &copy).expect("read");
        assert_eq!((buffer.capacity, buffer.bytes.len()), (1 << 18, sent.len()));
        assert!(buffer.bytes == sent, "the same bytes");
        drop(writer);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).expect("drain");
        assert!(rest == sent, "nothing was taken out");
    }

    #[test]
    fn an_empty_pipe_is_empty() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        let buffer = read(PipeId(7), &reader.into()).expect("read");
        assert_eq!((buffer.capacity, buffer.bytes.len()), (65536, 0));
    }
}
