//! Any image as JSON, for people: the fields by name, raw bytes as their length and beginning.

use serde_json::{Map, Value, json};

use crate::error::{BadImage, FrameFlaw, shortened};
use crate::frame::FrameReader;
use crate::kind::{Entries, ImageKind, MessageType};
use crate::messages::{
    BpfmapDataEntry, GhostChunkEntry, GhostFileEntry, Hex, IpcMsg, IpcMsgEntry, IpcSemEntry,
    PipeDataEntry, SkPacketEntry, TcpStreamEntry,
};

/// Bytes of raw content that are shown.
const SHOWN: usize = 64;

/// The image called `name` as JSON: its kind and its entries; of an image of no known kind, its size
/// and beginning.
pub fn inspect(name: &str, bytes: &[u8]) -> Result<Value, BadImage> {
    let mut out = Map::new();
    out.insert("image".into(), shortened(name).into());
    match ImageKind::of_name(name) {
        Some((kind, _)) if !matches!(kind.entries(), Entries::Nothing) => {
            out.insert("kind".into(), format!("{kind:?}").into());
            out.insert("entries".into(), entries(name, kind, bytes)?.into());
        }
        known => {
            let kind = known.map_or_else(|| "unknown".into(), |(kind, _)| format!("{kind:?}"));
            out.insert("kind".into(), kind.into());
            out.extend(raw(bytes));
        }
    }
    Ok(out.into())
}

/// Decodes and encodes each entry again: the image as qmig would write it. Equal bytes prove that
/// nothing in it is unknown here. Images without entries come back as they are.
pub fn rewrite(name: &str, bytes: &[u8]) -> Result<Vec<u8>, BadImage> {
    let Some((kind, _)) = ImageKind::of_name(name) else { return Ok(bytes.to_vec()) };
    if matches!(kind.entries(), Entries::Nothing) {
        return Ok(bytes.to_vec());
    }
    let mut out: Vec<u8> = kind.head().words().flat_map(u32::to_le_bytes).collect();
    walk(name, kind, bytes, |found| match found {
        Found::Entry(_, rewritten) => {
            let length = u32::try_from(rewritten.len()).unwrap_or(u32::MAX);
            out.extend(length.to_le_bytes());
            out.extend(rewritten);
        }
        Found::Raw(bytes) => out.extend(bytes),
    })?;
    Ok(out)
}

fn raw(bytes: &[u8]) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("bytes".into(), bytes.len().into());
    let head = &bytes[..bytes.len().min(SHOWN)];
    out.insert("hex".into(), Hex(head).to_string().into());
    out
}

enum Found<'a> {
    Entry(Value, Vec<u8>),
    Raw(&'a [u8]),
}

fn entries(name: &str, kind: ImageKind, bytes: &[u8]) -> Result<Vec<Value>, BadImage> {
    let mut entries: Vec<Value> = Vec::new();
    walk(name, kind, bytes, |found| match found {
        Found::Entry(value, _) => entries.push(without_nulls(value)),
        Found::Raw([]) => {}
        Found::Raw(bytes) => match entries.last_mut().and_then(Value::as_object_mut) {
            Some(entry) => drop(entry.insert("raw".into(), raw(bytes).into())),
            None => entries.push(json!({ "raw": raw(bytes) })),
        },
    })?;
    Ok(entries)
}

/// Goes through an image, entry by entry and with the raw bytes between them.
fn walk(
    name: &str,
    kind: ImageKind,
    bytes: &[u8],
    mut take: impl FnMut(Found<'_>),
) -> Result<(), BadImage> {
    let (first, then) = match kind.entries() {
        Entries::Nothing => return Ok(()),
        Entries::One(message) | Entries::Many(message) => (message, message),
        Entries::Headed(first, then) => (first, then),
    };
    let mut frame = FrameReader::open(name, kind, bytes)?;
    let mut message = first;
    while frame.entry()?.is_some() {
        take(found(&frame, message)?);
        if kind == ImageKind::IpcMessages {
            walk_messages(&mut frame, &mut take)?;
        } else {
            let payload = payload(&mut frame, kind)?;
            take(Found::Raw(&payload));
        }
        message = then;
    }
    Ok(())
}

fn found(frame: &FrameReader<&[u8]>, message: MessageType) -> Result<Found<'static>, BadImage> {
    let json = frame.decode_by(message.name, message.json)?;
    let rewritten = frame.decode_by(message.name, message.rewrite)?;
    Ok(Found::Entry(json, rewritten))
}

/// The raw bytes after the entry read last.
fn payload(frame: &mut FrameReader<&[u8]>, kind: ImageKind) -> Result<Vec<u8>, BadImage> {
    let length = match kind {
        ImageKind::PipesData | ImageKind::FifoData => {
            u64::from(frame.decode::<PipeDataEntry>()?.bytes)
        }
        ImageKind::SocketQueues => u64::from(frame.decode::<SkPacketEntry>()?.length),
        ImageKind::TcpStream => {
            let stream = frame.decode::<TcpStreamEntry>()?;
            u64::from(stream.inq_len) + u64::from(stream.outq_len)
        }
        ImageKind::BpfMapData => {
            let map = frame.decode::<BpfmapDataEntry>()?;
            u64::from(map.keys_bytes) + u64::from(map.values_bytes)
        }
        ImageKind::IpcSemaphores => padded(2 * u64::from(frame.decode::<IpcSemEntry>()?.nsems)),
        ImageKind::GhostFile if frame.entry_number() == 1 => {
            match frame.decode::<GhostFileEntry>()?.chunks {
                Some(true) => 0,
                _ => return frame.rest(),
            }
        }
        ImageKind::GhostFile => frame.decode::<GhostChunkEntry>()?.len,
        _ => 0,
    };
    frame.raw(length)
}

fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(8)
}

/// The messages of a System V queue: entries of their own, each with its bytes.
fn walk_messages(
    frame: &mut FrameReader<&[u8]>,
    take: &mut impl FnMut(Found<'_>),
) -> Result<(), BadImage> {
    let count = frame.decode::<IpcMsgEntry>()?.qnum;
    for _ in 0..count {
        if frame.entry()?.is_none() {
            return Err(frame.flaw(FrameFlaw::Truncated { what: "a queue's messages" }));
        }
        let message = frame.decode::<IpcMsg>()?;
        let value = json!({ "mtype": message.mtype, "msize": message.msize });
        take(Found::Entry(value, prost::Message::encode_to_vec(&message)));
        let bytes = frame.raw(padded(u64::from(message.msize)))?;
        take(Found::Raw(&bytes));
    }
    Ok(())
}

/// Fields that are not there are not shown.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(values) => values.into_iter().map(without_nulls).collect(),
        other => other,
    }
}
