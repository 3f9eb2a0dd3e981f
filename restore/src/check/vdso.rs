//! Is this kernel's vdso the one the program was started with?

use image::plan::fingerprint;
use nix::unistd::getpid;
use tracee::proc::maps;
use tracee::{HostPid, Memory};

/// The kernel's is two pages.
const LONGEST: usize = 64 << 10;

/// Hash of the vdso every process of this kernel has; `None` if it has none.
pub(crate) fn of_this_kernel() -> Option<Vec<u8>> {
    Some(fingerprint(&bytes()?).to_vec())
}

/// The vdso itself.
pub(crate) fn bytes() -> Option<Vec<u8>> {
    let me = HostPid(getpid().as_raw());
    let mappings = maps::read(me).ok()?;
    let range = mappings.iter().find(|map| map.special() == Some("[vdso]"))?.range()?;
    let len = usize::try_from(range.bytes().0).ok()?.min(LONGEST);
    let mut bytes = vec![0; len];
    Memory::open(me).ok()?.read(range.start_addr(), &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_kernel_gives_the_same_hash() {
        let hash = of_this_kernel();
        assert_eq!(hash.as_ref().map(Vec::len), Some(16));
        assert_eq!(hash, of_this_kernel());
    }
}
