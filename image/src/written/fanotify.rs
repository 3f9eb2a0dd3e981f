//! fanotify groups: entries of `files.img`.

use crate::error::BadField;
use crate::messages::{
    FanotifyFileEntry, FanotifyInodeMarkEntry, FanotifyMarkEntry, FanotifyMountMarkEntry, FhEntry,
    FownEntry, MarkType,
};
use crate::state::check::absolute_path;
use crate::state::fanotify::{Fanotify, Mark, MarkOn};

/// FAN_MARK_IGNORED_SURV_MODIFY, FAN_MARK_EVICTABLE, FAN_MARK_IGNORE (linux/fanotify.h).
const KNOWN_FLAGS: u32 = 0x40 | 0x200 | 0x400;

pub(super) fn entry(group: &Fanotify, id: u32, flags: u32, fown: FownEntry) -> FanotifyFileEntry {
    let mark = |mark: &Mark| mark_entry(mark, id);
    FanotifyFileEntry {
        id,
        flags,
        fown,
        faflags: group.flags,
        evflags: group.event_flags,
        mark: group.marks.iter().map(mark).collect(),
    }
}

fn mark_entry(mark: &Mark, id: u32) -> FanotifyMarkEntry {
    let path = || Some(mark.path.clone());
    let mount = |mnt_id| FanotifyMountMarkEntry { mnt_id, path: path() };
    let (kind, s_dev, ie, me) = match mark.on {
        MarkOn::Inode { inode, dev } => {
            let f_handle = FhEntry { path: path(), ..FhEntry::by_path() };
            let ie = FanotifyInodeMarkEntry { i_ino: inode, f_handle };
            (MarkType::Inode, dev, Some(ie), None)
        }
        MarkOn::Mount { number } => (MarkType::Mount, 0, None, Some(mount(number))),
        MarkOn::FileSystem { dev } => (MarkType::FileSystem, dev, None, Some(mount(0))),
    };
    FanotifyMarkEntry {
        id,
        r#type: kind as i32,
        mflags: mark.flags,
        mask: mark.mask,
        ignored_mask: mark.ignored,
        s_dev,
        ie,
        me,
    }
}

pub(super) fn from(entry: &FanotifyFileEntry) -> Result<Fanotify, BadField> {
    let marks = entry.mark.iter().map(mark_from).collect::<Result<_, _>>()?;
    Ok(Fanotify { flags: entry.faflags, event_flags: entry.evflags, marks })
}

fn mark_from(entry: &FanotifyMarkEntry) -> Result<Mark, BadField> {
    let dev = entry.s_dev;
    let mount = || entry.me.as_ref().ok_or_else(|| BadField::missing("ffy.mark.me"));
    let (on, path) = match MarkType::try_from(entry.r#type) {
        Ok(MarkType::Inode) => {
            let ie = entry.ie.as_ref().ok_or_else(|| BadField::missing("ffy.mark.ie"))?;
            (MarkOn::Inode { inode: ie.i_ino, dev }, ie.f_handle.path.clone())
        }
        Ok(MarkType::Mount) => {
            let me = mount()?;
            (MarkOn::Mount { number: me.mnt_id }, me.path.clone())
        }
        Ok(MarkType::FileSystem) => (MarkOn::FileSystem { dev }, mount()?.path.clone()),
        Err(_) => {
            let kind = entry.r#type.cast_unsigned();
            return Err(BadField::value("ffy.mark.type", kind, "1 to 3"));
        }
    };
    let Some(path) = path else {
        let what = "a marked file that is known by its handle or number alone";
        return Err(BadField::unsupported("ffy.mark", what));
    };
    // CRIU's are relative to the root of the mounts.
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    absolute_path("ffy.mark.path", &path)?;
    if entry.mflags & !KNOWN_FLAGS != 0 {
        return Err(BadField::value(
            "ffy.mark.mflags",
            entry.mflags,
            "flags that stay with a mark",
        ));
    }
    Ok(Mark { on, path, flags: entry.mflags, mask: entry.mask, ignored: entry.ignored_mask })
}
