//! TCP connections: `tcp-stream-N.img`, N the inode of the socket in hexadecimal.

use super::{Reader, Writer};
use crate::error::{BadField, BadImage};
use crate::frame::FrameWriter;
use crate::kind::ImageKind;
use crate::messages::TcpStreamEntry;
use crate::state::{File, FileKind, InetSocket, TcpStream, TcpWindow};

const TCP: u32 = 6;
/// TCPI_OPT_*, linux/tcp.h.
const TIMESTAMPS: u32 = 1;
const SACK: u32 = 2;
const WINDOW_SCALE: u32 = 4;
/// TCP_MAX_WSCALE of the kernel.
const HIGHEST_SCALE: u32 = 14;

fn has_stream(socket: &InetSocket) -> bool {
    socket.protocol == TCP && socket.state.is_connected()
}

pub(super) fn write(writer: &mut Writer<'_>) {
    for file in &writer.checkpoint.files {
        let FileKind::Inet(socket) = &file.kind else { continue };
        let Some(stream) = &socket.stream else { continue };
        let mut image = FrameWriter::new(ImageKind::TcpStream);
        image.entry(&to_entry(socket, stream)).raw(&stream.received).raw(&stream.written);
        writer.images.push((ImageKind::TcpStream.name(socket.inode), image.finish()));
    }
}

fn to_entry(socket: &InetSocket, stream: &TcpStream) -> TcpStreamEntry {
    let length = |bytes: &Vec<u8>| u32::try_from(bytes.len()).expect("a queue is below 4 GiB");
    let flag = |there: bool, bit: u32| if there { bit } else { 0 };
    let scales = stream.scales;
    let window = stream.window;
    TcpStreamEntry {
        inq_len: length(&stream.received),
        inq_seq: stream.receive_next,
        outq_len: length(&stream.written),
        outq_seq: stream.write_next,
        opt_mask: flag(stream.timestamp.is_some(), TIMESTAMPS)
            | flag(stream.sack, SACK)
            | flag(scales.is_some(), WINDOW_SCALE),
        snd_wscale: scales.map_or(0, |(send, _)| send.into()),
        mss_clamp: stream.segment,
        rcv_wscale: Some(scales.map_or(0, |(_, receive)| receive.into())),
        timestamp: stream.timestamp,
        cork: Some(socket.cork),
        nodelay: Some(socket.no_delay),
        unsq_len: Some(stream.unsent),
        snd_wl1: window.map(|window| window.snd_wl1),
        snd_wnd: window.map(|window| window.snd_wnd),
        max_window: window.map(|window| window.max_window),
        rcv_wnd: window.map(|window| window.rcv_wnd),
        rcv_wup: window.map(|window| window.rcv_wup),
    }
}

/// Every connection must have its stream. (CRIU writes one for closed sockets too; they have nothing
/// that could be continued.)
pub(super) fn read(reader: &Reader<'_>, files: &mut [File]) -> Result<(), BadImage> {
    for file in files {
        let FileKind::Inet(socket) = &mut file.kind else { continue };
        if !has_stream(socket) {
            continue;
        }
        let Some(mut frame) = reader.open(ImageKind::TcpStream, socket.inode)? else {
            return Err(BadImage::Missing { image: ImageKind::TcpStream.name(socket.inode) });
        };
        let missing = BadField::missing("tcp_stream_entry").at(frame.image(), 0);
        let entry: TcpStreamEntry = frame.message()?.ok_or(missing)?;
        let received = frame.raw(u64::from(entry.inq_len))?;
        let written = frame.raw(u64::from(entry.outq_len))?;
        let stream = from_entry(&entry, received, written)
            .map_err(|lie| lie.at(frame.image(), frame.entry_number()))?;
        // CRIU before 4 kept these two here.
        socket.cork |= entry.cork.unwrap_or(false);
        socket.no_delay |= entry.nodelay.unwrap_or(false);
        socket.stream = Some(Box::new(stream));
    }
    Ok(())
}

fn from_entry(
    entry: &TcpStreamEntry,
    received: Vec<u8>,
    written: Vec<u8>,
) -> Result<TcpStream, BadField> {
    let scale = |field, value: u32| match u8::try_from(value) {
        Ok(scale) if value <= HIGHEST_SCALE => Ok(scale),
        _ => Err(BadField::value(field, value, "a window scale, 0 to 14")),
    };
    let scales = match entry.opt_mask & WINDOW_SCALE {
        0 => None,
        _ => {
            let receive = entry.rcv_wscale.ok_or_else(|| BadField::missing("rcv_wscale"))?;
            Some((scale("snd_wscale", entry.snd_wscale)?, scale("rcv_wscale", receive)?))
        }
    };
    let timestamp = match entry.opt_mask & TIMESTAMPS {
        0 => None,
        _ => Some(entry.timestamp.ok_or_else(|| BadField::missing("timestamp"))?),
    };
    let unsent = entry.unsq_len.unwrap_or(0);
    if unsent > entry.outq_len {
        return Err(BadField::value("unsq_len", unsent, "no more than outq_len"));
    }
    if entry.mss_clamp > u32::from(u16::MAX) {
        return Err(BadField::value("mss_clamp", entry.mss_clamp, "16 bits"));
    }
    let words = (entry.snd_wl1, entry.snd_wnd, entry.max_window, entry.rcv_wnd, entry.rcv_wup);
    let window = match words {
        (Some(snd_wl1), Some(snd_wnd), Some(max_window), Some(rcv_wnd), Some(rcv_wup)) => {
            Some(TcpWindow { snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup })
        }
        _ => None,
    };
    Ok(TcpStream {
        received,
        receive_next: entry.inq_seq,
        written,
        unsent,
        write_next: entry.outq_seq,
        segment: entry.mss_clamp,
        sack: entry.opt_mask & SACK != 0,
        scales,
        timestamp,
        window,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> TcpStreamEntry {
        TcpStreamEntry {
            outq_len: 3,
            opt_mask: 7,
            snd_wscale: 7,
            rcv_wscale: Some(14),
            timestamp: Some(1),
            mss_clamp: 1460,
            unsq_len: Some(3),
            ..TcpStreamEntry::default()
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        from_entry(&entry(), vec![], vec![1, 2, 3]).expect("sound");
        for (field, lie) in [
            ("unsq_len", TcpStreamEntry { unsq_len: Some(4), ..entry() }),
            ("snd_wscale", TcpStreamEntry { snd_wscale: 15, ..entry() }),
            ("rcv_wscale", TcpStreamEntry { rcv_wscale: None, ..entry() }),
            ("timestamp", TcpStreamEntry { timestamp: None, ..entry() }),
            ("mss_clamp", TcpStreamEntry { mss_clamp: 1 << 16, ..entry() }),
        ] {
            let found = from_entry(&lie, vec![], vec![1, 2, 3]).expect_err(field);
            assert_eq!(found.field, field);
        }
    }
}
