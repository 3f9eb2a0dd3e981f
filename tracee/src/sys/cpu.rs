//! CPUID and XGETBV: how this CPU lays out the XSAVE area.

use std::arch::x86_64::__cpuid_count;

/// eax, ebx, ecx, edx of a CPUID leaf.
#[allow(unused_unsafe)] // safe to call since Rust 1.93, unsafe before
fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    // SAFETY: every x86-64 CPU has CPUID, and it has no side effects.
    let answer = unsafe { __cpuid_count(leaf, sub) };
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// XCR0: the components the kernel enabled; x87 and SSE alone where there is no XSAVE.
pub(crate) fn xcr0() -> u64 {
    const OSXSAVE: u32 = 1 << 27;
    if cpuid(1, 0)[2] & OSXSAVE == 0 {
        return 0b11;
    }
    let (low, high): (u32, u32);
    // SAFETY: OSXSAVE says that XGETBV is usable; register 0 always exists; no memory is touched.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Size and offset of component `number` in the standard (not compacted) format: CPUID leaf 0xD.
pub(crate) fn component(number: u8) -> (u32, u32) {
    let [size, offset, ..] = cpuid(0xd, u32::from(number));
    (size, offset)
}
