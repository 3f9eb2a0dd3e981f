//! Facts about this host that the destination compares with its own.

use std::io;

use image::plan::{Cpu, Plan, PlannedTask, fingerprint};
use nix::sys::utsname::uname;
use pages::{ByteCount, PAGE_SHIFT, TaskId};
use tracee::{HostPid, Memory, XsaveLayout};

/// What `uname` and the processor say.
pub(crate) struct Host {
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    pub(crate) hostname: String,
    pub(crate) cpu: Cpu,
}

impl Host {
    /// Asks the kernel and the processor.
    pub(crate) fn look() -> io::Result<Self> {
        let names = uname()?;
        let layout = XsaveLayout::of_this_cpu();
        Ok(Self {
            kernel: names.release().to_string_lossy().into_owned(),
            architecture: names.machine().to_string_lossy().into_owned(),
            hostname: names.nodename().to_string_lossy().into_owned(),
            cpu: Cpu { features: layout.features(), xsave_size: layout.size(), vendor: vendor() },
        })
    }

    /// A plan of `tasks`, the first of which is the root, that needs nothing but such a host.
    pub(crate) fn plan(self, tasks: Vec<PlannedTask>) -> Plan {
        Plan {
            qmig_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: self.kernel,
            architecture: self.architecture,
            page_size: 1 << PAGE_SHIFT,
            hostname: self.hostname,
            cpu: self.cpu,
            vdso: Vec::new(),
            root: tasks.first().map_or(TaskId(0), |root| root.id),
            command: tasks.first().map_or_else(String::new, |root| root.comm.clone()),
            tasks,
            files: Vec::new(),
            listeners: Vec::new(),
            unix_names: Vec::new(),
            hard_limits: [0; 16],
            highest_fd: 0,
            resident: ByteCount(0),
            ghosts: ByteCount(0),
            shell_job: false,
            needs: Vec::new(),
        }
    }
}

/// The first `vendor_id` of /proc/cpuinfo.
fn vendor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("vendor_id"));
    line.and_then(|line| line.split_once(':')).map_or("", |(_, vendor)| vendor.trim()).to_owned()
}

/// Hash of the vdso that `pid` has mapped at `start..end`.
///
/// Only equality is asked of it, between two kernels' own code: FNV-1a (128 bits) over the bytes,
/// with the length in front.
pub(crate) fn vdso_hash(pid: HostPid, start: pages::VirtAddr, end: pages::VirtAddr) -> Vec<u8> {
    let length = usize::try_from(end.0.saturating_sub(start.0)).unwrap_or(0).min(LONGEST_VDSO);
    let mut bytes = vec![0; length];
    match Memory::open(pid).and_then(|memory| memory.read(start, &mut bytes)) {
        Ok(()) => fingerprint(&bytes).to_vec(),
        Err(_) => Vec::new(),
    }
}

/// The kernel's is two pages.
const LONGEST_VDSO: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_name_and_a_processor() {
        let host = Host::look().expect("uname");
        assert_eq!(host.architecture, "x86_64");
        assert!(host.cpu.features & 0b11 == 0b11, "x87 and SSE: {:?}", host.cpu);
        assert!(
            !host.kernel.is_empty() && !host.hostname.is_empty() && !host.cpu.vendor.is_empty()
        );
    }
}
