//! What an epoll instance watches: each file must still be under the number it was added by.

use std::collections::HashMap;

use tracee::HostPid;
use tracee::host::epoll_target;
use tracee::proc::fdinfo::EpollWatch;

use super::refusals::{BY_CRIU, Trouble};

/// One trouble for each watch whose number was closed or shows another file by now. The watch goes
/// on (epoll(7), "Will closing a file descriptor …"), but nobody could add it again.
pub(crate) fn troubles(pid: HostPid, epoll: u32, watches: &[EpollWatch]) -> Vec<Trouble> {
    let mut times: HashMap<i32, u32> = HashMap::new();
    let mut troubles = Vec::new();
    for watch in watches {
        let nth = times.entry(watch.target).or_default();
        let here = epoll_target(pid, epoll.cast_signed(), watch.target, *nth, watch.target);
        *nth += 1;
        if !matches!(here, Ok(Some(true))) {
            let reason = format!(
                "it watches a file that was once fd {}, which is closed or another file now",
                watch.target
            );
            troubles.push(Trouble::new("anon_inode:[eventpoll]", reason).but(BY_CRIU));
        }
    }
    troubles
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    use tracee::proc::fdinfo::{Extra, FdInfo};

    use super::*;

    #[test]
    fn a_watch_outlives_its_number() {
        let own = HostPid(std::process::id().cast_signed());
        let epoll = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let kept = reader.try_clone().expect("dup");
        epoll.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN, 7)).expect("add");
        let number = epoll.0.as_raw_fd();
        let seen = || match FdInfo::read(own, number).expect("fdinfo").extra {
            Extra::Epoll(watches) => troubles(own, number.unsigned_abs(), &watches),
            other => panic!("an epoll instance: {other:?}"),
        };
        assert_eq!(seen(), []);
        drop(reader);
        assert_eq!(seen().len(), 1, "the number is closed, the pipe is not");
        drop(kept);
    }
}
