//! Huge pages for a test: leave for the kernel to make them on demand, given back afterwards.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::process::Command;

use crate::{Host, Lab, LabError, Subject, requirements};

/// Pages of 2 MiB, Documentation/admin-guide/mm/hugetlbpage.rst.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// Pages that may be made: no memory until somebody maps them.
const PAGES: u64 = 256;

/// While one lives, any process of the machine can have some huge pages of 2 MiB.
///
/// The leave is the whole machine's and tests run side by side, so the last to go takes it back: each
/// has a shared lock on a file in which the first wrote down what was allowed before.
#[derive(Debug)]
pub struct HugePages {
    before: File,
}

impl HugePages {
    /// Those that this subject needs, if any; [`Skipped`] means that the test must return. A kernel
    /// without such pages says why, also under `CI=true`; one that has them and gives none fails there.
    pub fn for_subject(subject: &Subject) -> Result<Option<Self>, Skipped> {
        if subject.name() != "huge" {
            return Ok(None);
        }
        if !Path::new(POOL).exists() {
            let _ =
                std::io::stderr().write_all(b"SKIPPED: this kernel has no huge pages of 2 MiB\n");
            return Err(Skipped);
        }
        Self::allow().map(Some).map_err(|error| {
            let _ = requirements::skip(&format!("no huge pages: {error}"));
            Skipped
        })
    }

    /// A hugetlbfs at the same place of both hosts, for files of the subject.
    pub fn mount(&self, lab: &Lab) -> Result<(), LabError> {
        [lab.src(), lab.dst()].into_iter().try_for_each(|host| self.mount_on(host))
    }

    /// The same on one.
    pub fn mount_on(&self, host: &Host) -> Result<(), LabError> {
        let mut mount = Command::new("sh");
        mount.args(["-c", "mkdir -p \"$0\" && mount -t hugetlbfs -o pagesize=2M none \"$0\""]);
        mount.arg(host.scratch().join("huge"));
        host.run(mount).map(drop)
    }

    fn allow() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join("qmig-tests-huge-pages");
        let mut options = OpenOptions::new();
        let mut before = options.read(true).write(true).create(true).truncate(false).open(path)?;
        if before.try_lock().is_ok() {
            before.set_len(0)?;
            before.write_all(most()?.to_string().as_bytes())?;
        }
        // The first one's lock becomes a shared one.
        before.lock_shared()?;
        set_most(most()?.max(PAGES))?;
        Ok(Self { before })
    }
}

/// The test cannot run, which has been said.
#[derive(Debug)]
pub struct Skipped;

impl Drop for HugePages {
    fn drop(&mut self) {
        let mut number = String::new();
        if self.before.try_lock().is_ok()
            && self.before.rewind().is_ok()
            && self.before.read_to_string(&mut number).is_ok()
            && let Ok(number) = number.parse()
        {
            let _ = set_most(number);
        }
    }
}

fn most() -> std::io::Result<u64> {
    let text = fs::read_to_string(format!("{POOL}/nr_overcommit_hugepages"))?;
    text.trim().parse().map_err(std::io::Error::other)
}

fn set_most(pages: u64) -> std::io::Result<()> {
    fs::write(format!("{POOL}/nr_overcommit_hugepages"), pages.to_string())
}
