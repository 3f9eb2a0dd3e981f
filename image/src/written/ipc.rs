//! Semaphores and message queues of System V: `ipcns-sem-N.img` and `ipcns-msg-N.img`, where N is the IPC
//! namespace. A stock CRIU restores them with a namespace of their own only.

use super::{Reader, Writer};
use crate::error::{BadField, BadImage, FrameFlaw};
use crate::frame::{FrameReader, FrameWriter};
use crate::kind::ImageKind;
use crate::messages::{IpcDescEntry, IpcMsg, IpcMsgEntry, IpcSemEntry};
use crate::state::{IpcObject, Message, MessageQueue, SemaphoreSet};

/// Permission bits.
const MODE: u32 = 0o777;

pub(super) fn write(writer: &mut Writer<'_>) {
    let namespace = writer.namespaces.ipc;
    let (sets, queues) = (&writer.checkpoint.semaphores, &writer.checkpoint.queues);
    if !sets.is_empty() {
        let mut image = FrameWriter::new(ImageKind::IpcSemaphores);
        for set in sets {
            let nsems = count(set.values.len());
            image.entry(&IpcSemEntry { desc: desc(&set.object), nsems });
            let values = set.values.iter().flat_map(|value| value.to_le_bytes());
            image.raw(&padded(values.collect()));
        }
        writer.images.push((ImageKind::IpcSemaphores.name(namespace), image.finish()));
    }
    if !queues.is_empty() {
        let mut image = FrameWriter::new(ImageKind::IpcMessages);
        for queue in queues {
            let (qbytes, qnum) = (queue.capacity, count(queue.messages.len()));
            image.entry(&IpcMsgEntry { desc: desc(&queue.object), qbytes, qnum });
            for message in &queue.messages {
                let mtype = message.kind.cast_unsigned();
                image.entry(&IpcMsg { mtype, msize: count(message.bytes.len()) });
                image.raw(&padded(message.bytes.clone()));
            }
        }
        writer.images.push((ImageKind::IpcMessages.name(namespace), image.finish()));
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("fewer than 2^32 of anything")
}

/// What follows an entry ends at a multiple of eight bytes.
fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn desc(object: &IpcObject) -> IpcDescEntry {
    IpcDescEntry {
        key: object.key,
        uid: object.uid,
        gid: object.gid,
        cuid: object.creator.0,
        cgid: object.creator.1,
        mode: object.mode,
        id: object.id.cast_unsigned(),
    }
}

impl TryFrom<&IpcDescEntry> for IpcObject {
    type Error = BadField;

    fn try_from(desc: &IpcDescEntry) -> Result<Self, BadField> {
        let id = i32::try_from(desc.id)
            .map_err(|_| BadField::value("desc.id", desc.id, "the id of an object"))?;
        Ok(Self {
            id,
            key: desc.key,
            uid: desc.uid,
            gid: desc.gid,
            creator: (desc.cuid, desc.cgid),
            mode: desc.mode & MODE,
        })
    }
}

pub(super) fn read(
    reader: &Reader<'_>,
) -> Result<(Vec<SemaphoreSet>, Vec<MessageQueue>), BadImage> {
    let namespace = reader.root_ids.ipc_ns_id.unwrap_or(0);
    let (mut sets, mut queues) = (Vec::new(), Vec::new());
    if let Some(mut frame) = reader.open(ImageKind::IpcSemaphores, namespace)? {
        while let Some(entry) = frame.message::<IpcSemEntry>()? {
            sets.push(set(&mut frame, &entry)?);
        }
    }
    if let Some(mut frame) = reader.open(ImageKind::IpcMessages, namespace)? {
        while let Some(entry) = frame.message::<IpcMsgEntry>()? {
            queues.push(queue(&mut frame, &entry)?);
        }
    }
    Ok((sets, queues))
}

type Frame<'a> = FrameReader<&'a [u8]>;

fn set(frame: &mut Frame<'_>, entry: &IpcSemEntry) -> Result<SemaphoreSet, BadImage> {
    let at = |lie: BadField, frame: &Frame<'_>| lie.at(frame.image(), frame.entry_number());
    let object = IpcObject::try_from(&entry.desc).map_err(|lie| at(lie, frame))?;
    if !(1..=count(SemaphoreSet::MOST)).contains(&entry.nsems) {
        let lie = BadField::value("nsems", entry.nsems, "1 to 65536 semaphores");
        return Err(at(lie, frame));
    }
    let bytes = frame.raw((2 * u64::from(entry.nsems)).next_multiple_of(8))?;
    let values = bytes.chunks_exact(2).take(entry.nsems as usize);
    let values: Vec<u16> = values.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    match values.iter().find(|value| **value > SemaphoreSet::HIGHEST) {
        Some(value) => Err(at(BadField::value("value", *value, "at most 32767"), frame)),
        None => Ok(SemaphoreSet { object, values }),
    }
}

fn queue(frame: &mut Frame<'_>, entry: &IpcMsgEntry) -> Result<MessageQueue, BadImage> {
    let at = |lie: BadField, frame: &Frame<'_>| lie.at(frame.image(), frame.entry_number());
    let object = IpcObject::try_from(&entry.desc).map_err(|lie| at(lie, frame))?;
    if entry.qnum as usize > MessageQueue::MOST_MESSAGES {
        let lie = BadField::value("qnum", entry.qnum, "at most 65536 messages");
        return Err(at(lie, frame));
    }
    let (mut messages, mut total) = (Vec::new(), 0);
    for _ in 0..entry.qnum {
        let Some(IpcMsg { mtype, msize }) = frame.message()? else {
            return Err(frame.flaw(FrameFlaw::Truncated { what: "a queue's messages" }));
        };
        total += msize as usize;
        if msize as usize > Message::LONGEST || total > MessageQueue::MOST_BYTES {
            let lie = BadField::value("msize", msize, "at most 512 KiB, and 16 MiB a queue");
            return Err(at(lie, frame));
        }
        let kind = mtype.cast_signed();
        if kind < 1 {
            return Err(at(BadField::value("mtype", mtype, "a positive number"), frame));
        }
        let mut bytes = frame.raw(u64::from(msize).next_multiple_of(8))?;
        bytes.truncate(msize as usize);
        messages.push(Message { kind, bytes });
    }
    Ok(MessageQueue { object, capacity: entry.qbytes, messages })
}
