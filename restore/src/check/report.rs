//! What this host can do, for `qmig check`: each feature, why, and what to change.

use std::fs::read_to_string;
use std::os::fd::AsRawFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::utsname::uname;
use nix::unistd::{geteuid, getpid};
use tracee::host::{pidfd_getfd, pidfd_open};
use tracee::{Features, HostPid};

use super::host::has_capability;

/// One feature of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name, as people know it.
    pub feature: String,
    /// It is here.
    pub ok: bool,
    /// Without it no tree can be moved; others make it better or faster.
    pub needed: bool,
    /// How it was found out, or what it is for.
    pub why: String,
    /// What to change, if it is not here.
    pub change: Option<String>,
}

/// Socket buffer that keeps 1 Gbit/s going over 60 ms.
const GOOD_BUFFER: u64 = 8 << 20;

/// Capabilities (capabilities(7)) without which a tree cannot be held or made again.
const CAPABILITIES: [(u32, &str, &str); 9] = [
    (0, "CAP_CHOWN", "give files and sockets their owners"),
    (1, "CAP_DAC_OVERRIDE", "open the files of other users' programs"),
    (5, "CAP_KILL", "end what must not run twice"),
    (6, "CAP_SETGID", "give a program its groups"),
    (7, "CAP_SETUID", "give a program its user"),
    (8, "CAP_SETPCAP", "give a program its capabilities"),
    (18, "CAP_SYS_CHROOT", "give a program its root directory"),
    (19, "CAP_SYS_PTRACE", "hold programs of other users"),
    (21, "CAP_SYS_ADMIN", "choose pids, make namespaces, set memory bounds"),
];

/// Everything `qmig check` tells.
pub fn host_report() -> Vec<Item> {
    let mut items = needed();
    items.extend(wanted());
    items
}

/// What no tree can be built without.
pub(super) fn needed() -> Vec<Item> {
    let root = geteuid().is_root();
    let mut items = vec![kernel(), need("root", root, "qmig runs as user 0", "run qmig as root")];
    if root {
        for (number, name, what) in CAPABILITIES {
            let change = "run qmig with it, outside of a restricted container";
            items.push(need(name, has_capability(number), &format!("needed to {what}"), change));
        }
    }
    items.extend([
        yama(),
        at_least((5, 5), "clone3 set_tid", "tasks get their old pids back"),
        need(
            "PR_SET_MM_MAP",
            exists("/proc/self/timers"),
            "memory bounds and program files can be set (CONFIG_CHECKPOINT_RESTORE)",
            "use a kernel with CONFIG_CHECKPOINT_RESTORE=y",
        ),
        need(
            "pidfd_getfd",
            can_fetch_descriptors(),
            "open files of a program can be looked at",
            "use Linux 5.6 or newer, with a seccomp profile that allows it",
        ),
        need(
            "memfd_create",
            memfd_create(c"qmig-check", MFdFlags::MFD_CLOEXEC).is_ok(),
            "shared memory can be made again",
            "allow it in the seccomp profile",
        ),
    ]);
    items
}

/// What makes it better.
fn wanted() -> Vec<Item> {
    let userfaultfd = Features::of_this_kernel();
    let soft_dirty = read_to_string("/proc/self/smaps").is_ok_and(|text| {
        text.lines().any(|line| line.starts_with("VmFlags") && line.contains(" sd"))
    });
    vec![
        want(
            "time namespaces",
            exists("/proc/self/timens_offsets"),
            "CLOCK_MONOTONIC goes on across the move",
            "use a kernel with CONFIG_TIME_NS=y (Linux 5.6)",
        ),
        want(
            "CAP_SYS_RESOURCE",
            has_capability(24),
            "limits above qmig's own can be set",
            "run qmig with it, or with limits as high as the program's",
        ),
        want(
            "userfaultfd",
            userfaultfd.contains(Features::LAZY),
            "pages can follow after the program runs",
            "use Linux 4.14 or newer with CONFIG_USERFAULTFD=y, and allow it in the seccomp profile",
        ),
        want(
            "userfaultfd WP_ASYNC",
            userfaultfd.contains(Features::TRACK),
            "written pages can be told while the program runs",
            "use Linux 6.7 or newer; until then, soft-dirty or not, --mode pre-copy and hybrid are \
             refused, and post-copy moves it",
        ),
        want(
            "PAGEMAP_SCAN",
            release() >= (6, 7),
            "pages are found fast",
            "use Linux 6.7 or newer; until then /proc/PID/pagemap is read",
        ),
        want(
            "soft-dirty",
            soft_dirty,
            "only for CRIU's own pre-dump; qmig uses WP_ASYNC",
            "use a kernel with CONFIG_MEM_SOFT_DIRTY=y if you need CRIU's",
        ),
        buffers(),
        criu_here(),
    ]
}

fn item(feature: &str, ok: bool, needed: bool, why: &str, change: &str) -> Item {
    Item {
        feature: feature.to_owned(),
        ok,
        needed,
        why: why.to_owned(),
        change: (!ok).then(|| change.to_owned()),
    }
}

fn need(feature: &str, ok: bool, why: &str, change: &str) -> Item {
    item(feature, ok, true, why, change)
}

fn want(feature: &str, ok: bool, why: &str, change: &str) -> Item {
    item(feature, ok, false, why, change)
}

fn exists(path: &str) -> bool {
    std::path::Path::new(path).exists()
}

/// Major and minor number of the kernel.
fn release() -> (u32, u32) {
    let text = uname().map(|names| names.release().to_string_lossy().into_owned());
    parse_release(&text.unwrap_or_default())
}

fn parse_release(text: &str) -> (u32, u32) {
    let mut numbers =
        text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn kernel() -> Item {
    let (major, minor) = release();
    let why = format!("Linux {major}.{minor}; 5.10 is the oldest qmig is made for");
    need("kernel", release() >= (5, 10), &why, "use Linux 5.10 or newer")
}

fn at_least(wanted: (u32, u32), feature: &str, why: &str) -> Item {
    let change = format!("use Linux {}.{} or newer", wanted.0, wanted.1);
    need(feature, release() >= wanted, why, &change)
}

/// kernel.yama.ptrace_scope: 3 forbids ptrace(2) even to root.
fn yama() -> Item {
    let scope = read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let why = match scope.trim() {
        "" => "no Yama on this kernel".to_owned(),
        scope => format!("kernel.yama.ptrace_scope is {scope}; root may trace up to 2"),
    };
    let change = "boot without kernel.yama.ptrace_scope=3; it cannot be lowered again";
    need("ptrace", scope.trim() != "3", &why, change)
}

fn can_fetch_descriptors() -> bool {
    let mine = pidfd_open(HostPid(getpid().as_raw()));
    mine.is_ok_and(|pidfd| pidfd_getfd(&pidfd, pidfd.as_raw_fd()).is_ok())
}

fn buffers() -> Item {
    let read = |name: &str| -> u64 {
        let text = read_to_string(format!("/proc/sys/net/core/{name}")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    let least = read("rmem_max").min(read("wmem_max"));
    let force = has_capability(12); // CAP_NET_ADMIN
    let why = match (least >= GOOD_BUFFER, force) {
        (true, _) => format!("UDP sockets may have {least} bytes"),
        (false, true) => format!("net.core.*mem_max is {least}, but CAP_NET_ADMIN goes beyond it"),
        (false, false) => format!("net.core.*mem_max is {least}"),
    };
    let change = format!("sysctl net.core.rmem_max={GOOD_BUFFER} net.core.wmem_max={GOOD_BUFFER}");
    want("QUIC socket buffers", least >= GOOD_BUFFER || force, &why, &change)
}

fn criu_here() -> Item {
    let found = criu::find();
    let ok = found.as_ref().is_some_and(|criu| criu.version >= criu::Criu::OLDEST);
    let why = found.map_or_else(
        || "no criu in $PATH; needed only for its own engine".to_owned(),
        |criu| match criu.features() {
            Ok(has) => format!(
                "{} {}; its pre-copy {}, its post-copy {}",
                criu.path.display(),
                criu.version,
                if has.mem_track { "works here" } else { "needs soft-dirty" },
                if has.lazy_pages { "works here" } else { "needs userfaultfd events" },
            ),
            Err(error) => format!("{} {}: {error}", criu.path.display(), criu.version),
        },
    );
    want("criu", ok, &why, "install CRIU 4.0 or newer, or name one by QMIG_CRIU")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(parse_release("6.18.44-fc-v669"), (6, 18));
        assert_eq!(parse_release("5.4"), (5, 4));
        assert_eq!(parse_release("odd"), (0, 0));
        assert!(parse_release("6.10.1") > parse_release("6.7.0"));
    }

    #[test]
    fn what_is_missing_says_what_to_change() {
        let report = host_report();
        assert!(report.iter().all(|item| item.ok == item.change.is_none()), "{report:?}");
        for feature in ["kernel", "root", "ptrace", "clone3 set_tid", "PR_SET_MM_MAP", "criu"] {
            assert_eq!(
                report.iter().filter(|item| item.feature == feature).count(),
                1,
                "{feature}"
            );
        }
    }
}
