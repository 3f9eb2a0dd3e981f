//! Images from outside may be anything: reading them never panics and never takes much memory.
//!
//! A test binary of its own, because the last assertion is about the whole process.

mod common;

use common::rich;
use image::messages::{FileEntry, GhostChunkEntry, GhostFileEntry, MmEntry, PipeDataEntry};
use image::state::Checkpoint;
use image::{BadImage, Flaw, ImageSet, ImageSetBuilder, Limits, NamespaceIds};
use prost::Message;

const SEED: u64 = 0x716d_6967_0000_0002;
const ROUNDS: usize = 20_000;

/// Numbers that look random and are the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => 0xff,
            1 => 0,
            _ => u8::try_from(self.below(256)).expect("below 256"),
        }
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, self.byte()),
            2 if !bytes.is_empty() => drop(bytes.remove(at)),
            3 => {
                let piece: Vec<u8> = bytes[at..].iter().take(self.below(64)).copied().collect();
                let to = self.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            4 if !bytes.is_empty() => bytes[at] = self.byte(),
            _ if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            _ => bytes.push(self.byte()),
        }
    }
}

fn set(images: impl IntoIterator<Item = (String, Vec<u8>)>) -> ImageSet {
    let mut set = ImageSetBuilder::new(Limits::default());
    for (name, bytes) in images {
        set.insert(&name, bytes).expect("a few small images");
    }
    set.seal().expect("with an inventory")
}

fn first_difference(before: &Checkpoint, after: &Checkpoint) -> String {
    let (before, after) = (format!("{before:#?}"), format!("{after:#?}"));
    let lines = before.lines().zip(after.lines()).enumerate();
    let mut different = lines.filter(|(_, (before, after))| before != after);
    different.next().map_or_else(
        || "one has more than the other".into(),
        |(line, (before, after))| format!("line {line}: {before} became {after}"),
    )
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("proc(5)");
    line.split_whitespace().nth(1).expect("a number").parse().expect("KiB")
}

#[test]
fn damaged_images_neither_panic_nor_take_much_memory() {
    let sound: Vec<(String, Vec<u8>)> = rich()
        .to_images(&NamespaceIds::default())
        .iter()
        .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
        .collect();
    let mut numbers = Numbers(SEED);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..ROUNDS {
        let mut images = sound.clone();
        for _ in 0..=numbers.below(3) {
            let which = numbers.below(images.len());
            let (name, bytes) = &mut images[which];
            numbers.damage(bytes);
            if let Ok(value) = image::inspect(name, bytes) {
                assert_eq!(value["image"], name.as_str());
            }
        }
        match Checkpoint::from_images(&set(images)) {
            Ok(checkpoint) => {
                // What was let through can be written and read again.
                let again = checkpoint.to_images(&NamespaceIds::default());
                let back = Checkpoint::from_images(&again).expect("valid by construction");
                assert!(back == checkpoint, "{}", first_difference(&checkpoint, &back));
                good += 1;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                bad += 1;
            }
        }
    }
    assert!(good > 500 && bad > 10_000, "{good} good, {bad} bad: the damage tells nothing");

    huge_claims(&sound);
    let peak = peak_kib();
    assert!(peak < 256 << 10, "{peak} KiB at the peak");
}

/// Small images that claim, or unfold to, enormous ones.
fn huge_claims(sound: &[(String, Vec<u8>)]) {
    let refused = |name: &str, bytes: Vec<u8>| -> BadImage {
        let images = sound.iter().map(|(have, content)| {
            (have.clone(), if have == name { bytes.clone() } else { content.clone() })
        });
        Checkpoint::from_images(&set(images)).expect_err(name)
    };
    let head = |name: &str| {
        let image = &sound.iter().find(|(have, _)| have == name).expect(name).1;
        image[..8].to_vec()
    };
    let entry = |mut image: Vec<u8>, message: &[u8]| {
        image.extend(u32::try_from(message.len()).expect("small").to_le_bytes());
        image.extend(message);
        image
    };

    // Four million mappings of two bytes each.
    let mut mappings = MmEntry::default().encode_to_vec();
    mappings.extend([14 << 3 | 2, 0].repeat(4 << 20));
    match refused("mm-100.img", entry(head("mm-100.img"), &mappings)) {
        BadImage::Field { field: "vmas", flaw: Flaw::Count { got, .. }, .. } => {
            assert_eq!(got, 4 << 20);
        }
        other => panic!("{other}"),
    }

    // Two million files of no bytes each.
    let mut files = head("files.img");
    files.resize(8 << 20, 0);
    refused("files.img", files);

    let mut longest = head("core-100.img");
    longest.extend(u32::MAX.to_le_bytes());
    refused("core-100.img", longest);

    let pipe = PipeDataEntry { pipe_id: 77, bytes: u32::MAX, size: Some(u32::MAX) };
    refused("pipes-data.img", entry(head("pipes-data.img"), &pipe.encode_to_vec()));

    let ghost = GhostFileEntry {
        mode: 0o100_644,
        chunks: Some(true),
        size: Some(1 << 50),
        ..GhostFileEntry::default()
    };
    let image = entry(head("ghost-file-2.img"), &ghost.encode_to_vec());
    let chunk = GhostChunkEntry { len: 1 << 49, off: 0 };
    refused("ghost-file-2.img", entry(image, &chunk.encode_to_vec()));

    let file = FileEntry { r#type: i32::MAX, id: 1, ..FileEntry::default() };
    refused("files.img", entry(head("files.img"), &file.encode_to_vec()));
}
