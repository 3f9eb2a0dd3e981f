//! What of a process or thread itself cannot be carried.

use std::ffi::OsString;
use std::fs;

use nix::libc;
use tracee::HostPid;
use tracee::host::{Kcmp, same_object};
use tracee::proc::stat::Stat;
use tracee::proc::status::Status;

use super::refusals::{BY_CRIU, Trouble};

/// Judges tasks by comparing them with qmig itself, whose namespaces they must share.
#[derive(Debug)]
pub(crate) struct Judge {
    namespaces: Vec<(&'static str, Option<OsString>)>,
    /// The tree has one time namespace: that of its root.
    time: Option<OsString>,
    label: String,
    /// qmig is under seccomp(2) itself.
    pub(crate) rules: bool,
}

/// Namespaces under /proc/PID/ns that are not carried, and what they are called.
const NAMESPACES: [(&str, &str); 8] = [
    ("pid", "PID"),
    ("pid_for_children", "PID"),
    ("net", "network"),
    ("mnt", "mount"),
    ("user", "user"),
    ("uts", "UTS"),
    ("ipc", "IPC"),
    ("cgroup", "cgroup"),
];

impl Judge {
    /// Looks at qmig and at the root of the tree.
    pub(crate) fn new(root: HostPid) -> Self {
        let own = NAMESPACES.iter().map(|(file, _)| (*file, namespace("self", file))).collect();
        let rules = Status::read(HostPid(nix::unistd::gettid().as_raw()));
        Self {
            namespaces: own,
            time: namespace(&root.0.to_string(), "time"),
            label: label("self"),
            rules: rules.is_ok_and(|status| status.seccomp != 0),
        }
    }

    /// Refuses a task, process or thread, that is in other namespaces than qmig.
    pub(crate) fn namespaces(&self, tid: HostPid) -> Vec<Trouble> {
        let task = tid.0.to_string();
        let mut troubles = Vec::new();
        for ((file, own), (_, name)) in self.namespaces.iter().zip(NAMESPACES) {
            let theirs = namespace(&task, file);
            if theirs.is_some() && theirs != *own {
                let place = theirs.unwrap_or_default().to_string_lossy().into_owned();
                let reason = format!("in another {name} namespace than qmig");
                troubles.push(
                    Trouble::new(place, reason).but("run qmig inside that namespace (nsenter)"),
                );
            }
        }
        // pid and pid_for_children say the same twice.
        troubles.dedup_by(|b, a| a.reason == b.reason);
        troubles
    }

    /// What of a process cannot be carried.
    pub(crate) fn process(&self, pid: HostPid, stat: &Stat) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        if stat.flags & PF_KTHREAD != 0 {
            return vec![Trouble::new("", "a thread of the kernel")];
        }
        let task = pid.0.to_string();
        troubles.extend(self.namespaces(pid));
        let time = [namespace(&task, "time"), namespace(&task, "time_for_children")];
        if time.iter().any(|theirs| theirs.is_some() && *theirs != self.time) {
            troubles.push(Trouble::new("", "in another time namespace than the root of the tree"));
        }
        let label = label(&task);
        if label != self.label {
            troubles.push(Trouble::new(label, "confined by a security label").but(BY_CRIU));
        }
        match read(&task, "personality").and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        {
            None => {}
            Some(known) if matches!(known & PER_MASK, PER_LINUX | PER_LINUX32) => {}
            Some(other) => {
                troubles.push(Trouble::new(
                    format!("{other:#x}"),
                    "it imitates another system than Linux (personality(2))",
                ));
            }
        }
        if stat.state != 'Z' && is_32_bit(&task) {
            troubles.push(Trouble::new("", "a 32-bit program"));
        }
        troubles
    }
}

/// What of a thread cannot be carried. `rules`: qmig itself is under seccomp.
pub(crate) fn thread(status: &Status, rules: bool) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    if status.seccomp != 0 && rules {
        let hint = "run qmig outside of the container or service that restrains it";
        troubles.push(Trouble::new("", "under seccomp, and qmig too: it may not look").but(hint));
    }
    if (status.pending | status.shared_pending) & 1 << (libc::SIGTRAP - 1) != 0 {
        troubles.push(Trouble::new("", "SIGTRAP is pending"));
    }
    troubles
}

/// Refuses a thread somebody else traces.
pub(crate) fn traced(status: &Status) -> Option<Trouble> {
    (status.tracer != 0).then(|| {
        let tracer = format!("process {}", status.tracer);
        Trouble::new(tracer, "traced (strace, gdb or another qmig)").but("end the tracer first")
    })
}

/// Refuses a thread that has parted with its process (unshare(2) with CLONE_FS or CLONE_FILES).
pub(crate) fn apart(pid: HostPid, tid: HostPid) -> Option<Trouble> {
    let what = [
        (Kcmp::Fs, "a working directory of its own (CLONE_FS)"),
        (Kcmp::Files, "descriptors of its own (CLONE_FILES)"),
    ]
    .into_iter()
    .find(|(kind, _)| !same_object(pid, tid, *kind).unwrap_or(true));
    what.map(|(_, what)| Trouble::new("", format!("the thread has {what}")))
}

/// Refuses what sched_setattr(2) and prctl(2) have set and nobody can set again.
pub(crate) fn special_scheduling(tid: HostPid) -> Option<Trouble> {
    if tracee::host::core_cookie(tid).is_some() {
        return Some(Trouble::new("", "it shares a core with its group alone (PR_SCHED_CORE)"));
    }
    let clamps = tracee::host::utilization_clamps(tid)?;
    let place = format!("{} to {}", clamps.0, clamps.1);
    Some(Trouble::new(place, "its use of a CPU is clamped (SCHED_FLAG_UTIL_CLAMP)"))
}

/// Refuses scheduling classes with parameters of their own.
pub(crate) fn scheduling(policy: u32) -> Option<Trouble> {
    const RESET_ON_FORK: u32 = 0x4000_0000;
    let name = match policy & !RESET_ON_FORK {
        6 => "SCHED_DEADLINE",
        7 => "SCHED_EXT",
        _ => return None,
    };
    Some(Trouble::new(name, "a scheduling class that is not carried"))
}

/// Refuses 32-bit code, and processor state that CRIU's format has no place for.
pub(crate) fn registers(cs: u64, xstate_in_use: u64) -> Option<Trouble> {
    const USER_CS: u64 = 0x33;
    /// Components CRIU's format knows: x87, SSE, AVX, MPX, AVX-512, PKRU, CET.
    const WRITTEN: u64 = 0b1_1010_1111_1111;
    if cs != USER_CS {
        return Some(Trouble::new("", "it runs 32-bit code"));
    }
    match xstate_in_use & !WRITTEN {
        0 => None,
        other if other & (1 << 17 | 1 << 18) != 0 => {
            Some(Trouble::new("", "it uses AMX tiles at this moment"))
        }
        other => {
            let number = other.trailing_zeros();
            Some(Trouble::new("", format!("it uses the processor state component {number}")))
        }
    }
}

/// Refuses what two processes share beyond descriptors.
pub(crate) fn sharing(one: HostPid, other: HostPid) -> Vec<Trouble> {
    [
        (Kcmp::Vm, "its memory (CLONE_VM, or vfork)"),
        (Kcmp::Fs, "its working directory (CLONE_FS)"),
        (Kcmp::Sighand, "its signal actions (CLONE_SIGHAND)"),
    ]
    .into_iter()
    .filter(|(kind, _)| same_object(one, other, *kind).unwrap_or(false))
    .map(|(_, what)| {
        Trouble::new(format!("process {other}"), format!("another process shares {what}"))
    })
    .collect()
}

/// linux/sched.h.
const PF_KTHREAD: u32 = 0x0020_0000;
/// sys/personality.h: the system that is imitated; flags are above it.
const PER_MASK: u64 = 0xff;
const PER_LINUX: u64 = 0;
const PER_LINUX32: u64 = 8;

fn namespace(task: &str, file: &str) -> Option<OsString> {
    fs::read_link(format!("/proc/{task}/ns/{file}")).ok().map(Into::into)
}

fn read(task: &str, file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{task}/{file}")).ok()
}

/// The label of AppArmor, SELinux or Smack; empty without any.
fn label(task: &str) -> String {
    let label = read(task, "attr/current").unwrap_or_default();
    label.trim_end_matches(['\0', '\n']).to_owned()
}

/// ELFCLASS32, elf(5).
fn is_32_bit(task: &str) -> bool {
    use std::os::unix::fs::FileExt;
    let mut ident = [0; 5];
    fs::File::open(format!("/proc/{task}/exe"))
        .and_then(|exe| exe.read_exact_at(&mut ident, 0))
        .is_ok_and(|()| ident == *b"\x7fELF\x01")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_itself_would_be_carried() {
        let own = HostPid(std::process::id().cast_signed());
        let judge = Judge::new(own);
        assert_eq!(judge.process(own, &Stat::read(own).expect("stat")), []);
    }

    #[test]
    fn the_kernel_s_own_threads_are_told() {
        let own = HostPid(std::process::id().cast_signed());
        let stat = Stat { flags: PF_KTHREAD, ..Stat::read(own).expect("stat") };
        let troubles = Judge::new(own).process(own, &stat);
        assert_eq!(troubles, [Trouble::new("", "a thread of the kernel")]);
    }

    #[test]
    fn registers_and_classes_without_a_place_are_refused() {
        assert_eq!(registers(0x33, 0b10_1110_0111), None, "AVX-512 and PKRU");
        assert!(registers(0x23, 3).is_some_and(|trouble| trouble.reason.contains("32-bit")));
        assert!(registers(0x33, 1 << 18 | 3).is_some_and(|trouble| trouble.reason.contains("AMX")));
        assert!(registers(0x33, 1 << 19 | 3).is_some());
        assert!(scheduling(0x4000_0006).is_some());
        assert_eq!(scheduling(2), None);
        let status = Status { seccomp: 2, pending: 1 << 4, ..Status::default() };
        assert_eq!((thread(&status, true).len(), thread(&status, false).len()), (2, 1));
    }
}
