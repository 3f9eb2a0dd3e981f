//! Leases and delegations, as fdinfo shows them (proc_pid_fdinfo(5), Linux 4.1). Locks on files are
//! carried; what holds a file in any other way is not.

use std::path::Path;

use tracee::lock::Lock;
use tracee::proc::fdinfo::FdInfo;

use super::refusals::Trouble;

/// One trouble for each that is held through a descriptor.
pub(crate) fn troubles(info: &FdInfo, link: &Path) -> Vec<Trouble> {
    let shown = link.to_string_lossy();
    let others = info.locks.iter().filter(|line| Lock::parse(line, 0).is_none());
    others
        .map(|line| {
            // "1: LEASE  ACTIVE    WRITE 77 00:2d:5 0 EOF"
            let what = match line.split_ascii_whitespace().nth(1) {
                Some("LEASE" | "DELEG") => "a lease",
                _ => "a lock of an unknown kind",
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
    fn a_lease_is_in_the_way_and_a_lock_is_not() {
        let path = std::env::temp_dir().join(format!("qmig-lock-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("a file");
        let fd = file.as_raw_fd();
        let own = HostPid(std::process::id().cast_signed());
        let info = || FdInfo::read(own, fd).expect("fdinfo");
        assert_eq!(troubles(&info(), &path), []);
        let lock = Flock::lock(file, FlockArg::LockExclusive).expect("lock");
        assert_eq!(info().locks.len(), 1);
        assert_eq!(troubles(&info(), &path), []);
        drop(lock);
        std::fs::remove_file(&path).expect("clean");

        let line = "1: LEASE  ACTIVE    WRITE 77 00:2d:5 0 EOF".to_owned();
        let leased = FdInfo { locks: vec![line], ..FdInfo::default() };
        let seen = troubles(&leased, &path);
        assert!(matches!(&seen[..], [one] if one.reason.contains("a lease")), "{seen:?}");
    }
}
