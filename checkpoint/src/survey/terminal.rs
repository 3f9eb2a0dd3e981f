//! Which end of which terminal a descriptor shows.

use nix::sys::stat::{major, minor};
use tracee::HostPid;
use tracee::proc::fdinfo::Extra;
use tracee::proc::stat::Stat;

use super::refusals::{SHELL_JOB, Trouble};

/// One end of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The master of /dev/pts/N.
    Master(u32),
    /// /dev/pts/N itself.
    Slave(u32),
    /// A console or a serial line, or a terminal that cannot be told.
    Other,
}

/// What a descriptor of `pid` on device `rdev` shows, of which fdinfo says `extra`.
pub(crate) fn end(pid: HostPid, rdev: u64, extra: &Extra) -> End {
    match (major(rdev), minor(rdev), extra) {
        (5, 2, Extra::Terminal(index)) => End::Master(*index),
        // /dev/tty is the controlling terminal, whatever that is.
        (5, 0, _) => Stat::read(pid).map_or(End::Other, |stat| controlling(&stat)),
        (136..=143, index, _) => u32::try_from(index).map_or(End::Other, End::Slave),
        _ => End::Other,
    }
}

/// The terminal that a process can reach as /dev/tty.
pub(crate) fn controlling(stat: &Stat) -> End {
    let rdev = u64::from(stat.tty.cast_unsigned());
    match (major(rdev), u32::try_from(minor(rdev))) {
        (136..=143, Ok(index)) => End::Slave(index),
        _ => End::Other,
    }
}

/// Refuses an end without the other, unless the person has one to put in its place.
pub(crate) fn alone(end: End, masters: impl Fn(u32) -> bool, place: &str) -> Option<Trouble> {
    match end {
        End::Master(_) => None,
        End::Slave(index) if masters(index) => None,
        _ => Some(Trouble::new(place, "a terminal outside the tree").but(SHELL_JOB)),
    }
}

#[cfg(test)]
mod tests {
    use nix::libc::makedev;

    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let own = HostPid(std::process::id().cast_signed());
        let of = |major, minor, extra| end(own, makedev(major, minor), &extra);
        assert_eq!(of(5, 2, Extra::Terminal(7)), End::Master(7));
        assert_eq!(of(136, 7, Extra::Plain), End::Slave(7));
        assert_eq!(of(4, 1, Extra::Plain), End::Other);
        let stat = |tty: i32| Stat { tty, ..Stat::read(own).expect("stat") };
        assert_eq!(controlling(&stat(136 << 8 | 9)), End::Slave(9));
        assert_eq!(controlling(&stat(0)), End::Other);
        let refused = |end| alone(end, |index| index == 7, "/dev/tty").is_some();
        assert_eq!(
            [End::Master(3), End::Slave(7), End::Slave(8), End::Other].map(refused),
            [false, false, true, true]
        );
    }
}
