//! /proc/PID/status.

use super::Source;
use crate::{HostPid, Result};

const STATUS: Source = Source("/proc/PID/status");

/// What status says of a task (proc(5) describes each). Sets of signals and capabilities are masks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Command name; blanks and the like are escaped.
    pub name: String,
    /// umask(2), if it still has a file system context.
    pub umask: Option<u32>,
    /// `R`, `S`, `D`, `T`, `t`, `Z`, `X`, `I`.
    pub state: char,
    /// Process.
    pub tgid: i32,
    /// Thread.
    pub pid: i32,
    /// Parent; zero if it is in another PID namespace.
    pub ppid: i32,
    /// Who traces it; zero if nobody.
    pub tracer: i32,
    /// Real, effective, saved, file system user id.
    pub uids: [u32; 4],
    /// Real, effective, saved, file system group id.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Process number in each PID namespace, ours first.
    pub ns_tgid: Vec<i32>,
    /// Thread number in each PID namespace, ours first.
    pub ns_pid: Vec<i32>,
    /// Process group in each.
    pub ns_pgid: Vec<i32>,
    /// Session in each.
    pub ns_sid: Vec<i32>,
    /// Threads of the process.
    pub threads: u32,
    /// Swapped out anonymous memory, KiB.
    pub vm_swap: u64,
    /// Resident memory, KiB.
    pub vm_rss: u64,
    /// Locked memory, KiB.
    pub vm_locked: u64,
    /// SigPnd: pending for this thread.
    pub pending: u64,
    /// ShdPnd: pending for the process.
    pub shared_pending: u64,
    /// SigBlk.
    pub blocked: u64,
    /// SigIgn.
    pub ignored: u64,
    /// SigCgt.
    pub caught: u64,
    /// CapInh.
    pub cap_inheritable: u64,
    /// CapPrm.
    pub cap_permitted: u64,
    /// CapEff.
    pub cap_effective: u64,
    /// CapBnd.
    pub cap_bounding: u64,
    /// CapAmb.
    pub cap_ambient: u64,
    /// prctl(PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
    /// Seccomp mode: 0 none, 1 strict, 2 filters.
    pub seccomp: u32,
    /// How many filters (Linux 5.9).
    pub seccomp_filters: u32,
    /// False after prctl(PR_SET_THP_DISABLE) (Linux 5.0).
    pub thp_enabled: Option<bool>,
    /// Times it gave the CPU up by itself.
    pub voluntary_switches: u64,
    /// Times the CPU was taken from it.
    pub involuntary_switches: u64,
}

impl Status {
    /// Reads /proc/PID/status; a thread's own number works too.
    pub fn read(pid: HostPid) -> Result<Self> {
        Self::parse(&super::read_text(format!("/proc/{pid}/status"))?)
    }

    /// The number by which a process knows itself: in the innermost PID namespace it is in.
    pub fn own_number(&self) -> i32 {
        self.ns_tgid.last().copied().unwrap_or(self.tgid)
    }

    /// Parses its text. Lines that are missing leave the default: kernels and builds differ.
    pub fn parse(text: &str) -> Result<Self> {
        let mut status = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                return Err(STATUS.error("line", line));
            };
            status.take(key, value.trim())?;
        }
        if status.pid == 0 || status.state == '\0' {
            return Err(STATUS.error("Pid and State", text.lines().next().unwrap_or_default()));
        }
        Ok(status)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "Name" => self.name = value.to_owned(),
            "Umask" => self.umask = Some(STATUS.octal("Umask", value)?),
            "State" => {
                self.state = value.chars().next().ok_or_else(|| STATUS.error("State", value))?;
            }
            "Tgid" => self.tgid = STATUS.number("Tgid", value)?,
            "Pid" => self.pid = STATUS.number("Pid", value)?,
            "PPid" => self.ppid = STATUS.number("PPid", value)?,
            "TracerPid" => self.tracer = STATUS.number("TracerPid", value)?,
            "Uid" => self.uids = four("Uid", value)?,
            "Gid" => self.gids = four("Gid", value)?,
            "Groups" => self.groups = list("Groups", value)?,
            "NStgid" => self.ns_tgid = list("NStgid", value)?,
            "NSpid" => self.ns_pid = list("NSpid", value)?,
            "NSpgid" => self.ns_pgid = list("NSpgid", value)?,
            "NSsid" => self.ns_sid = list("NSsid", value)?,
            "Threads" => self.threads = STATUS.number("Threads", value)?,
            "VmSwap" => self.vm_swap = kib("VmSwap", value)?,
            "VmRSS" => self.vm_rss = kib("VmRSS", value)?,
            "VmLck" => self.vm_locked = kib("VmLck", value)?,
            "SigPnd" => self.pending = STATUS.hex("SigPnd", value)?,
            "ShdPnd" => self.shared_pending = STATUS.hex("ShdPnd", value)?,
            "SigBlk" => self.blocked = STATUS.hex("SigBlk", value)?,
            "SigIgn" => self.ignored = STATUS.hex("SigIgn", value)?,
            "SigCgt" => self.caught = STATUS.hex("SigCgt", value)?,
            "CapInh" => self.cap_inheritable = STATUS.hex("CapInh", value)?,
            "CapPrm" => self.cap_permitted = STATUS.hex("CapPrm", value)?,
            "CapEff" => self.cap_effective = STATUS.hex("CapEff", value)?,
            "CapBnd" => self.cap_bounding = STATUS.hex("CapBnd", value)?,
            "CapAmb" => self.cap_ambient = STATUS.hex("CapAmb", value)?,
            "NoNewPrivs" => self.no_new_privs = value != "0",
            "Seccomp" => self.seccomp = STATUS.number("Seccomp", value)?,
            "Seccomp_filters" => self.seccomp_filters = STATUS.number("Seccomp_filters", value)?,
            "THP_enabled" => self.thp_enabled = Some(value != "0"),
            "voluntary_ctxt_switches" => {
                self.voluntary_switches = STATUS.number("voluntary_ctxt_switches", value)?;
            }
            "nonvoluntary_ctxt_switches" => {
                self.involuntary_switches = STATUS.number("nonvoluntary_ctxt_switches", value)?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn list<T: std::str::FromStr>(field: &'static str, value: &str) -> Result<Vec<T>> {
    value.split_whitespace().map(|word| STATUS.number(field, word)).collect()
}

fn four(field: &'static str, value: &str) -> Result<[u32; 4]> {
    list(field, value)?.try_into().map_err(|_| STATUS.error(field, value))
}

fn kib(field: &'static str, value: &str) -> Result<u64> {
    STATUS.number(field, value.strip_suffix("kB").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Name:\tmy\\040prog: x
Umask:\t0022
State:\tt (tracing stop)
Tgid:\t700
Pid:\t701
PPid:\t1
TracerPid:\t44
Uid:\t1000\t1001\t1002\t1003
Gid:\t5\t6\t7\t8
Groups:\t4 24 27 
NStgid:\t700\t1
NSpid:\t701\t2
NSpgid:\t700\t1
NSsid:\t700\t1
VmRSS:\t    1234 kB
VmSwap:\t       8 kB
Threads:\t3
SigQ:\t0/96000
SigPnd:\t0000000000000000
ShdPnd:\t0000000000004000
SigBlk:\t8000000000000001
SigIgn:\t0000000000001000
SigCgt:\t0000000180004002
CapEff:\t000001ffffffffff
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t3
THP_enabled:\t1
voluntary_ctxt_switches:\t12
nonvoluntary_ctxt_switches:\t34
";

    #[test]
    fn every_field_is_found() {
        let status = Status::parse(TEXT).expect("a sound text");
        assert_eq!((status.name.as_str(), status.umask), ("my\\040prog: x", Some(0o22)));
        assert_eq!((status.state, status.tgid, status.pid, status.tracer), ('t', 700, 701, 44));
        assert_eq!((status.uids, status.gids), ([1000, 1001, 1002, 1003], [5, 6, 7, 8]));
        assert_eq!((status.groups, status.ns_pid), (vec![4, 24, 27], vec![701, 2]));
        assert_eq!((status.shared_pending, status.blocked), (0x4000, 0x8000_0000_0000_0001));
        assert_eq!((status.caught, status.cap_effective), (0x1_8000_4002, 0x1ff_ffff_ffff));
        assert_eq!((status.seccomp, status.seccomp_filters, status.no_new_privs), (2, 3, true));
        assert_eq!((status.vm_rss, status.vm_swap, status.thp_enabled), (1234, 8, Some(true)));
        assert_eq!((status.voluntary_switches, status.involuntary_switches), (12, 34));
    }

    #[test]
    fn a_lying_field_is_named() {
        let text = TEXT.replace("8000000000000001", "zebra");
        let error = Status::parse(&text).expect_err("not a mask");
        assert!(matches!(error, crate::Error::Parse { field: "SigBlk", .. }), "{error}");
        assert!(Status::parse("").is_err());
    }

    #[test]
    fn our_own_status_is_read() {
        let pid = std::process::id().cast_signed();
        let status = Status::read(HostPid(pid)).expect("our own");
        assert_eq!((status.pid, status.tgid), (pid, pid));
        assert!(status.threads >= 1 && status.umask.is_some());
    }
}
