//! A short name for a piece of the kernel's own code, to compare two kernels by.

/// FNV-1a (128 bits) over the length and the bytes. Only equality is asked of it.
pub fn fingerprint(bytes: &[u8]) -> [u8; 16] {
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
    use super::fingerprint;

    #[test]
    fn order_and_length_count() {
        assert_ne!(fingerprint(b"ab"), fingerprint(b"ba"));
        assert_ne!(fingerprint(b""), fingerprint(b"\0"));
        assert_eq!(fingerprint(b"ab"), fingerprint(b"ab"));
    }
}
