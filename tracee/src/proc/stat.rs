//! /proc/PID/stat.

use super::Source;
use crate::{HostPid, Result};

const STAT: Source = Source("/proc/PID/stat");

/// What stat says of a task (proc(5), by field number). Addresses read as zero without ptrace access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // proc(5) names the bounds
pub struct Stat {
    /// 1.
    pub pid: i32,
    /// 2; whatever stands between the outermost parentheses.
    pub comm: String,
    /// 3.
    pub state: char,
    /// 4.
    pub ppid: i32,
    /// 5.
    pub pgrp: i32,
    /// 6.
    pub session: i32,
    /// 7: controlling terminal as a device number; zero if none.
    pub tty: i32,
    /// 8: foreground group of that terminal; -1 if none.
    pub tty_pgrp: i32,
    /// 9: PF_*.
    pub flags: u32,
    /// 14, in clock ticks.
    pub user_ticks: u64,
    /// 15, in clock ticks.
    pub system_ticks: u64,
    /// 20.
    pub num_threads: u32,
    /// 22: in clock ticks since the host started.
    pub start_time: u64,
    /// 26.
    pub start_code: u64,
    /// 27.
    pub end_code: u64,
    /// 28.
    pub start_stack: u64,
    /// 38.
    pub exit_signal: i32,
    /// 39: the CPU it ran on last.
    pub processor: u32,
    /// 45.
    pub start_data: u64,
    /// 46.
    pub end_data: u64,
    /// 47.
    pub start_brk: u64,
    /// 48.
    pub arg_start: u64,
    /// 49.
    pub arg_end: u64,
    /// 50.
    pub env_start: u64,
    /// 51.
    pub env_end: u64,
    /// 52: what wait(2) will tell of a zombie.
    pub exit_code: i32,
}

impl Stat {
    /// Reads /proc/PID/stat; for a thread's own number, that thread's view.
    pub fn read(pid: HostPid) -> Result<Self> {
        Self::parse(&super::read_text(format!("/proc/{pid}/stat"))?)
    }

    /// Parses its line.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |field| STAT.error(field, text);
        let (before, rest) = text.split_once('(').ok_or_else(|| bad("comm"))?;
        // The name may hold parentheses, blanks and newlines of its own.
        let (comm, after) = rest.rsplit_once(')').ok_or_else(|| bad("comm"))?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied().ok_or_else(|| bad("fields"));
        let signed = |name, number| STAT.number::<i32>(name, field(number)?);
        let address = |name, number| STAT.number::<u64>(name, field(number)?);
        Ok(Self {
            pid: STAT.number("pid", before)?,
            comm: comm.to_owned(),
            state: field(3)?.chars().next().ok_or_else(|| bad("state"))?,
            ppid: signed("ppid", 4)?,
            pgrp: signed("pgrp", 5)?,
            session: signed("session", 6)?,
            tty: signed("tty_nr", 7)?,
            tty_pgrp: signed("tpgid", 8)?,
            flags: STAT.number("flags", field(9)?)?,
            user_ticks: address("utime", 14)?,
            system_ticks: address("stime", 15)?,
            num_threads: STAT.number("num_threads", field(20)?)?,
            start_time: address("starttime", 22)?,
            start_code: address("startcode", 26)?,
            end_code: address("endcode", 27)?,
            start_stack: address("startstack", 28)?,
            exit_signal: signed("exit_signal", 38)?,
            processor: STAT.number("processor", field(39)?)?,
            start_data: address("start_data", 45)?,
            end_data: address("end_data", 46)?,
            start_brk: address("start_brk", 47)?,
            arg_start: address("arg_start", 48)?,
            arg_end: address("arg_end", 49)?,
            env_start: address("env_start", 50)?,
            env_end: address("env_end", 51)?,
            exit_code: signed("exit_code", 52)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_does_not_shift_the_fields() {
        let mut fields: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        fields[8 - 4] = "-1".to_owned();
        let line = format!("321 (a) (b\n c) Z {}\n", fields.join(" "));
        let stat = Stat::parse(&line).expect("a sound line");
        assert_eq!((stat.pid, stat.comm.as_str(), stat.state), (321, "a) (b\n c", 'Z'));
        assert_eq!((stat.ppid, stat.pgrp, stat.session, stat.tty), (4, 5, 6, 7));
        assert_eq!((stat.tty_pgrp, stat.flags, stat.num_threads), (-1, 9, 20));
        assert_eq!((stat.start_code, stat.end_code, stat.start_stack), (26, 27, 28));
        assert_eq!((stat.start_data, stat.start_brk, stat.exit_code), (45, 47, 52));
        assert_eq!((stat.arg_start, stat.env_end), (48, 51));
    }

    #[test]
    fn a_short_line_is_refused() {
        assert!(Stat::parse("1 (x) R 2 3").is_err());
        assert!(Stat::parse("1 x R 2 3").is_err());
    }
}
