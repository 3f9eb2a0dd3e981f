//! Is this kernel's vdso the one the program was started with?

use nix::unistd::getpid;
use tracee::proc::maps;
use tracee::{HostPid, Memory};

/// The kernel's is two pages.
const LONGEST: usize = 64 << 10;

/// Hash of the vdso every process of this kernel has; `None` if it has none.
pub(crate) fn of_this_kernel() -> Option<Vec<u8>> {
    let me = HostPid(getpid().as_raw());
    let mappings = maps::read(me).ok()?;
    let range = mappings.iter().find(|map| map.special() == Some("[vdso]"))?.range()?;
    let len = usize::try_from(range.bytes().0).ok()?.min(LONGEST);
    let mut bytes = vec![0; len];
    Memory::open(me).ok()?.read(range.start_addr(), &mut bytes).ok()?;
    Some(fnv(&bytes).to_vec())
}

/// FNV-1a (128 bits) over the length and the bytes, as the source's survey makes it. Only equality is
/// asked of it, between two kernels' own code.
fn fnv(bytes: &[u8]) -> [u8; 16] {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let length = (bytes.len() as u64).to_le_bytes();
    let hash = length
        .iter()
        .chain(bytes)
        .fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME));
    hash.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_kernel_gives_the_same_hash() {
        let hash = of_this_kernel();
        assert_eq!(hash.as_ref().map(Vec::len), Some(16));
        assert_eq!(hash, of_this_kernel());
        assert_ne!(fnv(b"ab"), fnv(b"ba"));
    }
}
