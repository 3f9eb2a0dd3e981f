//! Guard pages of MADV_GUARD_INSTALL in shared memory (Linux 6.15): no mapping and no flag shows them, only the page
//! tables do (bit 58 of /proc/PID/pagemap, Linux 6.15).

use std::fs::File;
use std::os::unix::fs::FileExt;

use pages::PAGE_SHIFT;
use tracee::HostPid;
use tracee::proc::maps::Mapping;

/// Looks for guard pages, with a limit to the trouble taken.
#[derive(Debug)]
pub(crate) struct Guards {
    /// Pages that may still be looked at.
    left: u64,
}

impl Default for Guards {
    fn default() -> Self {
        Self { left: MOST_PAGES }
    }
}

/// 64 GiB of mappings cost 128 MiB of reading, well under a second. Larger programs are looked at in
/// part.
const MOST_PAGES: u64 = (64 << 30) >> PAGE_SHIFT;
/// Entries read at once.
const ENTRIES: u64 = 8192;
/// PM_GUARD_REGION.
const GUARD: u64 = 1 << 58;

impl Guards {
    /// The first mapping of a process that has any.
    pub(crate) fn find<'m>(
        &mut self,
        pid: HostPid,
        mappings: &'m [Mapping],
    ) -> Option<&'m Mapping> {
        let pagemap = File::open(format!("/proc/{}/pagemap", pid.0)).ok()?;
        mappings.iter().find(|mapping| self.guarded(&pagemap, mapping))
    }

    fn guarded(&mut self, pagemap: &File, mapping: &Mapping) -> bool {
        // Those of private memory are carried.
        if !mapping.shared {
            return false;
        }
        let (mut page, end) = (mapping.start.0 >> PAGE_SHIFT, mapping.end.0 >> PAGE_SHIFT);
        if end - page > self.left {
            return false;
        }
        self.left -= end - page;
        let mut buffer = vec![0; usize::try_from((end - page).min(ENTRIES)).unwrap_or(0) * 8];
        while page < end {
            let want = usize::try_from((end - page).min(ENTRIES)).unwrap_or(0) * 8;
            let Ok(got @ 8..) = pagemap.read_at(&mut buffer[..want], page * 8) else {
                return false;
            };
            if buffer[..got].chunks_exact(8).any(is_guard) {
                return true;
            }
            page += (got / 8) as u64;
        }
        false
    }
}

fn is_guard(entry: &[u8]) -> bool {
    u64::from_le_bytes(entry.try_into().expect("eight bytes")) & GUARD != 0
}
