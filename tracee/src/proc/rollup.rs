//! /proc/PID/smaps_rollup: what the mappings of a process take, all together (Linux 4.14).

use pages::ByteCount;

use super::Source;
use crate::{HostPid, Result};

const ROLLUP: Source = Source("/proc/PID/smaps_rollup");

/// Memory of a process that is no file's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anonymous {
    /// All that is present.
    pub whole: ByteCount,
    /// The same where what several processes have counts in part for each; nothing if the kernel does
    /// not tell (before Linux 5.4).
    pub part: Option<ByteCount>,
}

impl Anonymous {
    /// Asks for it; the kernel looks at every page, a gibibyte in some milliseconds.
    pub fn read(pid: HostPid) -> Result<Self> {
        Self::parse(&super::read_text(format!("/proc/{pid}/smaps_rollup"))?)
    }

    /// Parses the text of the file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut told = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            match key {
                "Anonymous" => told.whole = bytes("Anonymous", value)?,
                "Pss_Anon" => told.part = Some(bytes("Pss_Anon", value)?),
                _ => {}
            }
        }
        Ok(told)
    }

    /// What is not this process's alone, less its own part of it. Summed over all that have it, that is
    /// how much they would take more if each had a copy.
    pub fn others(&self) -> ByteCount {
        ByteCount(self.part.map_or(0, |part| self.whole.0.saturating_sub(part.0)))
    }
}

fn bytes(field: &'static str, value: &str) -> Result<ByteCount> {
    let number = value.trim().strip_suffix("kB").unwrap_or(value);
    Ok(ByteCount(ROLLUP.number::<u64>(field, number)?.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_others_is_told_where_the_kernel_does() {
        let text = "\
55d0c8a00000-7ffd3cb2d000 ---p 00000000 00:00 0                          [rollup]
Rss:                5120 kB
Pss:                2400 kB
Pss_Anon:            700 kB
Pss_File:           1700 kB
Anonymous:          2100 kB
";
        let told = Anonymous::parse(text).expect("sound");
        let wanted = Anonymous { whole: ByteCount(2100 << 10), part: Some(ByteCount(700 << 10)) };
        assert_eq!((told, told.others()), (wanted, ByteCount(1400 << 10)));
        let old = Anonymous::parse("Anonymous: 12 kB\n").expect("sound");
        assert_eq!((old.part, old.others()), (None, ByteCount(0)));
        let wrong = Anonymous::parse("Pss_Anon: much kB\n").expect_err("no number").to_string();
        assert!(wrong.contains("Pss_Anon"), "{wrong}");
        assert!(Anonymous::read(HostPid(std::process::id().cast_signed())).is_ok());
    }
}
