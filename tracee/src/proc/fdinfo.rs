//! /proc/PID/fdinfo/FD.

use super::Source;
use crate::{HostPid, Result};

const FDINFO: Source = Source("/proc/PID/fdinfo/FD");

/// What fdinfo says of a descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FdInfo {
    /// File position.
    pub pos: i64,
    /// O_* flags; O_CLOEXEC is the descriptor's, the others are the open file's.
    pub flags: u32,
    /// Mount (in /proc/PID/mountinfo) the file was opened on.
    pub mnt_id: i32,
    /// Inode (Linux 5.14).
    pub ino: Option<u64>,
    /// What only some kinds of file tell.
    pub extra: Extra,
    /// File locks this process holds through the descriptor, as in /proc/locks.
    pub locks: Vec<String>,
}

/// What only some kinds of file tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Extra {
    /// An ordinary file, pipe or socket.
    #[default]
    Plain,
    /// eventfd(2).
    EventFd {
        /// Its counter.
        count: u64,
        /// EFD_SEMAPHORE, where the kernel tells (Linux 6.5).
        semaphore: Option<bool>,
    },
    /// epoll(7).
    Epoll(Vec<EpollWatch>),
    /// timerfd_create(2).
    TimerFd(TimerInfo),
    /// signalfd(2): the mask.
    SignalFd(u64),
    /// pidfd_open(2): the process as we number it; -1 if it is gone.
    PidFd(i32),
    /// inotify(7): what it watches, in no order.
    Inotify(Vec<InotifyWatch>),
    /// fanotify(7): a group and its marks.
    Fanotify(FanotifyGroup),
    /// The master of a pseudo-terminal: the number of its slave (Linux 4.14).
    Terminal(u32),
    /// Anything else that tells something (io_uring, …): its lines.
    Other(Vec<String>),
}

/// One file watched by epoll.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpollWatch {
    /// Number it was added under; may be closed or something else by now.
    pub target: i32,
    /// EPOLL*.
    pub events: u32,
    /// The program's word.
    pub data: u64,
    /// File position.
    pub pos: i64,
    /// Inode.
    pub ino: u64,
    /// Device of the file system.
    pub sdev: u64,
}

/// One file watched by inotify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InotifyWatch {
    /// Watch descriptor.
    pub wd: i32,
    /// Inode.
    pub ino: u64,
    /// Device of the file system: the kernel's own number, the major from bit 20 on.
    pub sdev: u32,
    /// IN_*.
    pub mask: u32,
    /// Type and bytes of the file's handle (name_to_handle_at(2)), where its file system has handles.
    pub handle: Option<(i32, Vec<u8>)>,
}

/// A fanotify group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FanotifyGroup {
    /// Given to fanotify_init(2): FAN_*.
    pub flags: u32,
    /// The other word given to it: O_* of the files that come with events.
    pub event_flags: u32,
    /// What it has marked, in no order.
    pub marks: Vec<FanotifyMark>,
    /// It has marks beside these, of some other kind.
    pub unknown: bool,
}

/// One mark of a fanotify group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanotifyMark {
    /// On what.
    pub on: Marked,
    /// FAN_MARK_*.
    pub flags: u32,
    /// FAN_*: what is told.
    pub mask: u32,
    /// FAN_*: what is not.
    pub ignored: u32,
}

/// What a fanotify mark is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marked {
    /// A file.
    Inode {
        /// Inode.
        inode: u64,
        /// Device of its file system, as in [`InotifyWatch::sdev`].
        dev: u32,
        /// As in [`InotifyWatch::handle`].
        handle: Option<(i32, Vec<u8>)>,
    },
    /// A mount, by its number in /proc/PID/mountinfo.
    Mount(u32),
    /// A file system (Linux 4.20).
    FileSystem {
        /// Its device, likewise.
        dev: u32,
    },
}

/// A timerfd; times in (seconds, nanoseconds).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerInfo {
    /// CLOCK_*.
    pub clock: i32,
    /// Expirations not read yet.
    pub ticks: u64,
    /// TFD_TIMER_* of the last timerfd_settime(2).
    pub settime_flags: u32,
    /// Until the next expiration; zero if disarmed.
    pub value: (u64, u64),
    /// Period.
    pub interval: (u64, u64),
}

impl FdInfo {
    /// Reads /proc/PID/fdinfo/FD.
    pub fn read(pid: HostPid, fd: i32) -> Result<Self> {
        Self::parse(&super::read_text(format!("/proc/{pid}/fdinfo/{fd}"))?)
    }

    /// Parses its text.
    pub fn parse(text: &str) -> Result<Self> {
        let mut info = Self::default();
        let mut timer = TimerInfo::default();
        for line in text.lines() {
            if line.starts_with("tfd:") {
                let watch = epoll_watch(line)?;
                match &mut info.extra {
                    Extra::Epoll(watches) => watches.push(watch),
                    other => *other = Extra::Epoll(vec![watch]),
                }
                continue;
            }
            if line.starts_with("inotify ") {
                let watch = inotify_watch(line)?;
                match &mut info.extra {
                    Extra::Inotify(watches) => watches.push(watch),
                    other => *other = Extra::Inotify(vec![watch]),
                }
                continue;
            }
            if line.starts_with("fanotify ") {
                if !matches!(info.extra, Extra::Fanotify(_)) {
                    info.extra = Extra::Fanotify(FanotifyGroup::default());
                }
                let Extra::Fanotify(group) = &mut info.extra else { continue };
                fanotify(line, group)?;
                continue;
            }
            let (key, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.trim();
            match key {
                "pos" => info.pos = FDINFO.number("pos", value)?,
                "flags" => info.flags = FDINFO.octal("flags", value)?,
                "mnt_id" => info.mnt_id = FDINFO.number("mnt_id", value)?,
                "ino" => info.ino = Some(FDINFO.number("ino", value)?),
                "lock" => info.locks.push(value.to_owned()),
                "eventfd-count" => {
                    let count = FDINFO.hex("eventfd-count", value)?;
                    info.extra = Extra::EventFd { count, semaphore: None };
                }
                "eventfd-semaphore" => {
                    let one = FDINFO.number::<u32>("eventfd-semaphore", value)? != 0;
                    if let Extra::EventFd { semaphore, .. } = &mut info.extra {
                        *semaphore = Some(one);
                    }
                }
                "tty-index" => info.extra = Extra::Terminal(FDINFO.number("tty-index", value)?),
                "sigmask" => info.extra = Extra::SignalFd(FDINFO.hex("sigmask", value)?),
                "Pid" => info.extra = Extra::PidFd(FDINFO.number("Pid", value)?),
                "clockid" => {
                    timer.clock = FDINFO.number("clockid", value)?;
                    info.extra = Extra::TimerFd(timer);
                }
                "ticks" | "settime flags" | "it_value" | "it_interval" => {
                    if let Extra::TimerFd(timer) = &mut info.extra {
                        timer_line(timer, key, value)?;
                    }
                }
                "eventfd-id" | "NSpid" => {}
                _ => match &mut info.extra {
                    Extra::Other(lines) => lines.push(line.to_owned()),
                    Extra::Plain => info.extra = Extra::Other(vec![line.to_owned()]),
                    _ => {}
                },
            }
        }
        Ok(info)
    }
}

fn timer_line(timer: &mut TimerInfo, key: &str, value: &str) -> Result<()> {
    match key {
        "ticks" => timer.ticks = FDINFO.number("ticks", value)?,
        "settime flags" => timer.settime_flags = FDINFO.octal("settime flags", value)?,
        "it_value" => timer.value = time(value)?,
        _ => timer.interval = time(value)?,
    }
    Ok(())
}

/// `(seconds, nanoseconds)`.
fn time(text: &str) -> Result<(u64, u64)> {
    let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
    let (seconds, nanos) =
        inner.and_then(|text| text.split_once(',')).ok_or_else(|| FDINFO.error("time", text))?;
    Ok((FDINFO.number("time", seconds)?, FDINFO.number("time", nanos)?))
}

/// `tfd: 5 events: 1d data: ffff  pos:0 ino:3d sdev:6`: the blank after the colon comes and goes.
fn epoll_watch(line: &str) -> Result<EpollWatch> {
    let mut watch = EpollWatch::default();
    let text = line.replace(':', " ");
    let mut words = text.split_whitespace();
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        match key {
            "tfd" => watch.target = FDINFO.number("tfd", value)?,
            "events" => {
                watch.events = u32::try_from(FDINFO.hex("events", value)?)
                    .map_err(|_| FDINFO.error("events", line))?;
            }
            "data" => watch.data = FDINFO.hex("data", value)?,
            "pos" => watch.pos = FDINFO.number("pos", value)?,
            "ino" => watch.ino = FDINFO.hex("ino", value)?,
            "sdev" => watch.sdev = FDINFO.hex("sdev", value)?,
            _ => {}
        }
    }
    Ok(watch)
}

/// `inotify wd:1 ino:2a sdev:fe00000 mask:fce ignored_mask:0 fhandle-bytes:8 fhandle-type:1
/// f_handle:2a00…`, all but wd in hex (Linux 3.8; without a handle where there is none).
fn inotify_watch(line: &str) -> Result<InotifyWatch> {
    let mut watch = InotifyWatch::default();
    let short = |field, value| {
        FDINFO
            .hex(field, value)
            .and_then(|word| u32::try_from(word).map_err(|_| FDINFO.error(field, line)))
    };
    let mut kind = 0;
    for (key, value) in line.split_whitespace().filter_map(|word| word.split_once(':')) {
        match key {
            "wd" => watch.wd = FDINFO.number("wd", value)?,
            "ino" => watch.ino = FDINFO.hex("ino", value)?,
            "sdev" => watch.sdev = short("sdev", value)?,
            "mask" => watch.mask = short("mask", value)?,
            "fhandle-type" => kind = short("fhandle-type", value)?.cast_signed(),
            "f_handle" if !value.is_empty() => {
                let byte = |at: usize| {
                    value.get(at..at + 2).and_then(|two| u8::from_str_radix(two, 16).ok())
                };
                let bytes: Option<Vec<u8>> = (0..value.len()).step_by(2).map(byte).collect();
                let bytes = bytes.ok_or_else(|| FDINFO.error("f_handle", line))?;
                watch.handle = Some((kind, bytes));
            }
            _ => {}
        }
    }
    Ok(watch)
}

/// `fanotify flags:10 event-flags:8000`, then for each mark `fanotify ino:2a sdev:fe00000 mflags:0
/// mask:3b ignored_mask:0 fhandle-bytes:8 …`, or mnt_id in place of ino and sdev, or sdev alone
/// (Linux 3.8); all in hex.
fn fanotify(line: &str, group: &mut FanotifyGroup) -> Result<()> {
    let short = |field, value: &str| {
        let word = FDINFO.hex(field, value)?;
        u32::try_from(word).map_err(|_| FDINFO.error(field, line))
    };
    let words = || line.split_whitespace().filter_map(|word| word.split_once(':'));
    let find = |name: &str| words().find(|(key, _)| *key == name).map(|(_, value)| value);
    if let Some((flags, event_flags)) = find("flags").zip(find("event-flags")) {
        group.flags = short("flags", flags)?;
        group.event_flags = short("event-flags", event_flags)?;
        return Ok(());
    }
    let on = match (find("ino"), find("sdev"), find("mnt_id")) {
        (Some(_), Some(_), None) => {
            let file = inotify_watch(line)?;
            Marked::Inode { inode: file.ino, dev: file.sdev, handle: file.handle }
        }
        (None, None, Some(number)) => Marked::Mount(short("mnt_id", number)?),
        (None, Some(dev), None) => Marked::FileSystem { dev: short("sdev", dev)? },
        _ => {
            group.unknown = true;
            return Ok(());
        }
    };
    let word = |name| find(name).map_or(Ok(0), |value| short("a mask", value));
    let (flags, mask, ignored) = (word("mflags")?, word("mask")?, word("ignored_mask")?);
    group.marks.push(FanotifyMark { on, flags, mask, ignored });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &str) -> FdInfo {
        let text = format!("pos:\t7\nflags:\t02004002\nmnt_id:\t15\nino:\t61\n{extra}");
        FdInfo::parse(&text).expect("a sound text")
    }

    #[test]
    fn marks_of_each_kind_are_told() {
        let text = "fanotify flags:6 event-flags:8000\n\
                    fanotify mnt_id:12 mflags:40 mask:20 ignored_mask:1\n\
                    fanotify ino:2a sdev:fe00000 mflags:0 mask:3b ignored_mask:0 fhandle-bytes:2 \
                    fhandle-type:1 f_handle:2a00\n\
                    fanotify sdev:fe00000 mflags:0 mask:8 ignored_mask:0\n\
                    fanotify mnt_ns:7 mflags:0 mask:8 ignored_mask:0\n";
        let mark = |on, flags, mask, ignored| FanotifyMark { on, flags, mask, ignored };
        let handle = Some((1, vec![0x2a, 0]));
        let (inode, dev) = (0x2a, 0xfe0_0000);
        let marks = vec![
            mark(Marked::Mount(0x12), 0x40, 0x20, 1),
            mark(Marked::Inode { inode, dev, handle }, 0, 0x3b, 0),
            mark(Marked::FileSystem { dev }, 0, 8, 0),
        ];
        let group = FanotifyGroup { flags: 6, event_flags: 0x8000, marks, unknown: true };
        assert_eq!(parse(text).extra, Extra::Fanotify(group));
    }

    #[test]
    fn each_kind_of_file_tells_its_own() {
        let plain = parse("lock:\t1: POSIX  ADVISORY  WRITE 77 fe:00:12 0 EOF\n");
        assert_eq!((plain.pos, plain.flags, plain.mnt_id), (7, 0o2_004_002, 15));
        assert_eq!((plain.ino, plain.extra, plain.locks.len()), (Some(61), Extra::Plain, 1));
        assert_eq!(
            parse("eventfd-count:                ff\neventfd-id: 3\neventfd-semaphore: 1\n").extra,
            Extra::EventFd { count: 255, semaphore: Some(true) }
        );
        assert_eq!(parse("sigmask:\t0000000000000a00\n").extra, Extra::SignalFd(0xa00));
        assert_eq!(parse("tty-index:\t7\n").extra, Extra::Terminal(7));
        assert_eq!(parse("Pid:\t-1\nNSpid:\t-1\n").extra, Extra::PidFd(-1));
        let bare = InotifyWatch { wd: 1, ino: 0x2a, sdev: 0xfe0_0000, mask: 0xfce, handle: None };
        let handle = Some((1, vec![0x2a, 0, 0xff]));
        let full = InotifyWatch { wd: 12, handle, ..bare.clone() };
        let text = "inotify wd:1 ino:2a sdev:fe00000 mask:fce ignored_mask:0 \n\
                    inotify wd:12 ino:2a sdev:fe00000 mask:fce ignored_mask:0 fhandle-bytes:3 \
                    fhandle-type:1 f_handle:2a00ff\n";
        assert_eq!(parse(text).extra, Extra::Inotify(vec![bare, full]));
        assert!(matches!(parse("SqThread:\t-1\n").extra, Extra::Other(_)));
    }

    #[test]
    fn timers_and_watches_are_read_whole() {
        let timer = parse(
            "clockid: 1\nticks: 3\nsettime flags: 01\nit_value: (2, 500)\nit_interval: (1, 0)\n",
        );
        let expected =
            TimerInfo { clock: 1, ticks: 3, settime_flags: 1, value: (2, 500), interval: (1, 0) };
        assert_eq!(timer.extra, Extra::TimerFd(expected));
        let epoll = parse(
            "tfd:        5 events: 8000001d data: ffffffffffffffff  pos:0 ino:3d sdev:6\n\
             tfd:       12 events:       19 data:                c  pos:-1 ino:a sdev:7\n",
        );
        let Extra::Epoll(watches) = epoll.extra else { panic!("not an epoll") };
        assert_eq!(watches[0].events, 0x8000_001d);
        assert_eq!((watches[0].data, watches[0].ino, watches[0].sdev), (u64::MAX, 0x3d, 6));
        assert_eq!((watches[1].target, watches[1].data, watches[1].pos), (12, 12, -1));
    }

    #[test]
    fn nonsense_is_named() {
        let error = FdInfo::parse("pos:\t0\nflags:\t09\n").expect_err("not octal");
        assert!(matches!(error, crate::Error::Parse { field: "flags", .. }));
    }
}
