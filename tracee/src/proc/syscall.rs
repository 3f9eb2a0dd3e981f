//! /proc/PID/task/TID/syscall: the system call a thread sleeps in (Linux 2.6.27).

use super::Source;
use crate::{HostPid, Result};

const SYSCALL: Source = Source("/proc/PID/task/TID/syscall");

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It runs, or is ready to.
    Running,
    /// It sleeps, but not in a system call (in a page fault, or stopped).
    Sleeping {
        /// Stack pointer.
        sp: u64,
        /// Program counter.
        pc: u64,
    },
    /// It sleeps in a system call.
    Call {
        /// Its number.
        nr: i64,
        /// Its arguments.
        args: [u64; 6],
        /// Stack pointer.
        sp: u64,
        /// Program counter.
        pc: u64,
    },
}

/// Reads the file of thread `tid` of process `pid`.
pub fn read(pid: HostPid, tid: HostPid) -> Result<Doing> {
    parse(&super::read_text(format!("/proc/{pid}/task/{tid}/syscall"))?)
}

/// Parses its line.
pub fn parse(text: &str) -> Result<Doing> {
    let text = text.trim();
    if text == "running" {
        return Ok(Doing::Running);
    }
    let mut words = text.split_whitespace();
    let nr: i64 = SYSCALL.number("number", words.next().unwrap_or_default())?;
    let rest: Vec<u64> = words.map(|word| SYSCALL.hex("argument", word)).collect::<Result<_>>()?;
    match rest[..] {
        [sp, pc] if nr == -1 => Ok(Doing::Sleeping { sp, pc }),
        [a, b, c, d, e, f, sp, pc] => Ok(Doing::Call { nr, args: [a, b, c, d, e, f], sp, pc }),
        _ => Err(SYSCALL.error("arguments", text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_forms_are_read() {
        assert_eq!(parse("running\n").expect("form one"), Doing::Running);
        assert_eq!(
            parse("-1 0x7ffc 0x401000\n").expect("form two"),
            Doing::Sleeping { sp: 0x7ffc, pc: 0x40_1000 }
        );
        let call = parse("232 0x5 0x7f00 0x40 0xffffffff 0x0 0x8 0x7ffc 0x4010\n");
        let args = [5, 0x7f00, 0x40, 0xffff_ffff, 0, 8];
        assert_eq!(
            call.expect("form three"),
            Doing::Call { nr: 232, args, sp: 0x7ffc, pc: 0x4010 }
        );
        assert!(parse("232 0x5\n").is_err());
        assert!(parse("").is_err());
    }
}
