//! What a fanotify group has marked: the kernel tells handles and numbers, a destination needs paths.

use std::os::fd::{AsFd, OwnedFd};

use image::state::fanotify::{Fanotify, Mark, MarkOn};
use tracee::HostPid;
use tracee::host::bytes_waiting;
use tracee::proc::fdinfo::{FanotifyGroup, FanotifyMark, Marked};
use tracee::proc::status::Status;

use super::mounts::Mounts;
use super::refusals::{BY_CRIU, Trouble};

const PLACE: &str = "anon_inode:[fanotify]";
/// FAN_OPEN_PERM, FAN_ACCESS_PERM, FAN_OPEN_EXEC_PERM, FAN_PRE_ACCESS (linux/fanotify.h).
const DECIDES: u32 = 0x1_0000 | 0x2_0000 | 0x4_0000 | 0x10_0000;
/// CAP_SYS_ADMIN, capabilities(7).
const SYS_ADMIN: u64 = 1 << 21;

/// A group of `pid`, each mark with a path that names the file now.
pub(crate) fn group(pid: HostPid, found: &FanotifyGroup) -> Result<Fanotify, Trouble> {
    let refuse = |reason: &str| Err(Trouble::new(PLACE, reason));
    if found.marks.iter().any(|mark| (mark.mask | mark.ignored) & DECIDES != 0) {
        return refuse(
            "it decides what others may open: they would all wait while it stands still",
        );
    }
    // A group made without privilege is told less, and nothing tells that it is one.
    if !Status::read(pid).is_ok_and(|status| status.cap_effective & SYS_ADMIN != 0) {
        return refuse("a fanotify group of a program without CAP_SYS_ADMIN");
    }
    if found.unknown {
        return refuse("a fanotify mark of a kind that is not known here");
    }
    let mounts = if found.marks.is_empty() { Mounts::default() } else { Mounts::of(pid) };
    let marks = found.marks.iter().map(|mark| resolved(mark, &mounts));
    let marks = marks.collect::<Result<_, _>>()?;
    Ok(Fanotify { flags: found.flags, event_flags: found.event_flags, marks })
}

fn resolved(mark: &FanotifyMark, mounts: &Mounts) -> Result<Mark, Trouble> {
    let (on, path) = match &mark.on {
        Marked::Inode { inode, dev, handle } => {
            let on = MarkOn::Inode { inode: *inode, dev: *dev };
            (on, mounts.path(*dev, handle.as_ref()))
        }
        Marked::Mount(number) => (MarkOn::Mount { number: *number }, mounts.place(*number)),
        Marked::FileSystem { dev } => {
            (MarkOn::FileSystem { dev: *dev }, mounts.place_of_device(*dev))
        }
    };
    let Some(path) = path else {
        let reason = format!("the path of one of its marks cannot be found ({:?})", mark.on);
        return Err(Trouble::new(PLACE, reason).but(BY_CRIU));
    };
    Ok(Mark { on, path, flags: mark.flags, mask: mark.mask, ignored: mark.ignored })
}

/// Refuses events that wait: no call puts one into a group. Of a group that hears of a whole mount
/// they are lost, and told: to look at a tree is to open files, and it hears of that too.
pub(crate) fn unread(copy: &OwnedFd, group: &FanotifyGroup) -> Option<Trouble> {
    let bytes = bytes_waiting(copy.as_fd()).ok().filter(|bytes| *bytes > 0)?;
    if group.marks.iter().any(|mark| !matches!(mark.on, Marked::Inode { .. })) {
        tracing::warn!(bytes, "what waits in a fanotify group is lost");
        return None;
    }
    let reason = format!("{bytes} bytes of events that the program has not read");
    Some(Trouble::new(PLACE, reason).but("try again when it has read them"))
}
