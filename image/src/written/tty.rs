//! Terminals from outside: an open description, a terminal, and a path each ([`super::nodes`]).

use std::collections::{BTreeMap, HashMap};

use super::{Reader, Writer};
use crate::error::{BadField, BadImage};
use crate::kind::ImageKind;
use crate::messages::{TermiosEntry, TtyInfoEntry, TtyPtyEntry, TtyType, WinsizeEntry};
use crate::state::check::group_id;
use crate::state::{FileKind, Tty};

/// Major number of /dev/tty and /dev/ptmx (Documentation/admin-guide/devices.txt).
const TTYAUX: u32 = 5;
/// Major numbers of pseudo-terminals' slaves.
const PTY_SLAVES: std::ops::RangeInclusive<u32> = 136..=143;
/// c_cc of the kernel's struct termios.
const CONTROL_CHARACTERS: usize = 19;
/// What CRIU copies of them, and how many words it writes.
const CONTROL_BYTES: usize = 32;
const CONTROL_WORDS: usize = 19;

fn major(rdev: u32) -> u32 {
    rdev >> 8 & 0xfff
}

impl Tty {
    /// CRIU's number of the terminal: even for a slave, odd for a master.
    pub(super) fn info_id(&self) -> u32 {
        if self.is_master() {
            return self.index.wrapping_mul(2).wrapping_add(1);
        }
        match PTY_SLAVES.contains(&major(self.rdev)) {
            true => self.index.wrapping_mul(2),
            false => 1 << 31 | self.rdev,
        }
    }
}

pub(super) fn write(writer: &mut Writer<'_>) {
    let terminals: BTreeMap<u32, &Tty> = writer
        .checkpoint
        .files
        .iter()
        .filter_map(|file| match &file.kind {
            FileKind::Tty(tty) => Some((tty.info_id(), tty)),
            _ => None,
        })
        .collect();
    if !terminals.is_empty() {
        let entries = terminals.into_values().map(TtyInfoEntry::from);
        writer.many(ImageKind::TtyInfo, 0, entries);
    }
}

impl From<&Tty> for TtyInfoEntry {
    fn from(tty: &Tty) -> Self {
        let is_pty = tty.is_master() || PTY_SLAVES.contains(&major(tty.rdev));
        let [c_iflag, c_oflag, c_cflag, c_lflag] = tty.modes;
        let [ws_row, ws_col, ws_xpixel, ws_ypixel] = tty.window.map(u32::from);
        Self {
            id: tty.info_id(),
            r#type: if is_pty { TtyType::Pty } else { TtyType::Ctty } as i32,
            locked: false,
            exclusive: false,
            packet_mode: false,
            sid: tty.session,
            pgrp: tty.foreground,
            rdev: tty.rdev,
            termios: Some(TermiosEntry {
                c_iflag,
                c_oflag,
                c_cflag,
                c_lflag,
                c_line: 0,
                c_ispeed: 0,
                c_ospeed: 0,
                c_cc: control_words(&tty.control),
            }),
            termios_locked: None,
            winsize: Some(WinsizeEntry { ws_row, ws_col, ws_xpixel, ws_ypixel }),
            pty: is_pty.then_some(TtyPtyEntry { index: tty.index }),
            dev: None,
            uid: None,
            gid: None,
        }
    }
}

fn control_words(control: &[u8]) -> Vec<u32> {
    let mut bytes = [0; CONTROL_BYTES];
    let length = control.len().min(CONTROL_BYTES);
    bytes[..length].copy_from_slice(&control[..length]);
    let word = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    let mut words: Vec<u32> = bytes.chunks_exact(4).map(word).collect();
    words.resize(CONTROL_WORDS, 0);
    words
}

/// Terminals by number.
pub(super) fn read(reader: &Reader<'_>) -> Result<HashMap<u32, Tty>, BadImage> {
    let mut terminals = HashMap::new();
    reader.each(ImageKind::TtyInfo, 0, |entry: TtyInfoEntry| {
        match terminals.insert(entry.id, Tty::try_from(&entry)?) {
            None => Ok(()),
            Some(_) => Err(BadField::twice("id", "terminal", entry.id)),
        }
    })?;
    Ok(terminals)
}

impl TryFrom<&TtyInfoEntry> for Tty {
    type Error = BadField;

    /// Everything but the path.
    fn try_from(entry: &TtyInfoEntry) -> Result<Self, BadField> {
        let index = match (entry.r#type(), major(entry.rdev)) {
            (TtyType::Pty, major) if major == TTYAUX || PTY_SLAVES.contains(&major) => {
                entry.pty.as_ref().ok_or_else(|| BadField::missing("pty"))?.index
            }
            (TtyType::Ctty, TTYAUX) => 0,
            (TtyType::Pty | TtyType::Ctty, _) => {
                return Err(BadField::value("rdev", entry.rdev, "a terminal's device"));
            }
            _ => return Err(BadField::unsupported("type", "a console or a serial line")),
        };
        if index >= 1 << 20 {
            return Err(BadField::value("pty.index", index, "a terminal's number"));
        }
        let termios = entry.termios.clone().ok_or_else(|| BadField::missing("termios"))?;
        if termios.c_cc.len() * 4 < CONTROL_CHARACTERS {
            let got = termios.c_cc.len();
            return Err(BadField::count("termios.c_cc", got, "words for 19 characters"));
        }
        let window = entry.winsize.clone().unwrap_or_default();
        let size = |field, got| {
            u16::try_from(got).map_err(|_| BadField::value(field, got, "a size of 16 bits"))
        };
        let control: Vec<u8> = termios.c_cc.iter().flat_map(|word| word.to_le_bytes()).collect();
        Ok(Self {
            path: String::new(),
            index,
            rdev: entry.rdev,
            session: group_id("sid", entry.sid)?.0,
            foreground: group_id("pgrp", entry.pgrp)?.0,
            modes: [termios.c_iflag, termios.c_oflag, termios.c_cflag, termios.c_lflag],
            control: control.into_iter().take(CONTROL_CHARACTERS).collect(),
            window: [
                size("winsize.ws_row", window.ws_row)?,
                size("winsize.ws_col", window.ws_col)?,
                size("winsize.ws_xpixel", window.ws_xpixel)?,
                size("winsize.ws_ypixel", window.ws_ypixel)?,
            ],
        })
    }
}
