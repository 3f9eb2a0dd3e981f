//! File locks and leases, as fdinfo shows them (proc_pid_fdinfo(5), Linux 4.1).

use std::path::Path;

use tracee::proc::fdinfo::FdInfo;

use super::refusals::Trouble;

/// One trouble for each lock that is held through a descriptor.
pub(crate) fn troubles(info: &FdInfo, link: &Path) -> Vec<Trouble> {
    let shown = link.to_string_lossy();
    info.locks
        .iter()
        .map(|lock| {
            // "1: POSIX  ADVISORY  WRITE 77 00:2d:5 0 EOF"
            let mut words = lock.split_ascii_whitespace().skip(1);
            let what = match words.next() {
                Some("LEASE" | "DELEG") => "a lease",
                Some("FLOCK") => "a lock (flock)",
                Some("OFDLCK") => "a lock (F_OFD_SETLK)",
                _ => "a lock (fcntl F_SETLK)",
            };
            Trouble::new(shown.clone(), format!("{what} is held on it"))
                .but("try again when it is released")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use nix::fcntl::{Flock, FlockArg};
    use tracee::HostPid;

    use super::*;

    #[test]
    fn a_lock_is_seen_while_it_is_held() {
        let path = std::env::temp_dir().join(format!("qmig-lock-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("a file");
        let fd = file.as_raw_fd();
        let own = HostPid(std::process::id().cast_signed());
        let seen = || troubles(&FdInfo::read(own, fd).expect("fdinfo"), &path);
        assert_eq!(seen(), []);
        let lock = Flock::lock(file, FlockArg::LockExclusive).expect("lock");
        assert!(matches!(&seen()[..], [one] if one.reason.contains("flock")), "{:?}", seen());
        drop(lock);
        std::fs::remove_file(&path).expect("clean");
    }
}
