//! Memory of huge pages. Their kernel writes to no page that its process could not write to, whoever
//! asks: so they are mapped writable, and protected as the program had them when they are filled.

use image::state::{Mm, Vma, VmaKind};
use nix::libc;

use super::process::{Batch, Process};
use crate::error::Result;

/// PROT_READ and PROT_WRITE.
const OPEN: u32 = 3;

/// The protection with which a mapping is made.
pub(super) fn early_prot(vma: &Vma) -> u32 {
    match vma.kind {
        VmaKind::Huge(_) => vma.prot | OPEN,
        _ => vma.prot,
    }
}

/// Protects them, once no page will be written there any more.
pub(super) fn protect(process: &mut Process, mm: &Mm) -> Result<()> {
    let mut batch = Batch::default();
    for vma in mm.vmas.iter().filter(|vma| early_prot(vma) != vma.prot) {
        let args = [vma.range.start_addr().0, vma.range.bytes().0, u64::from(vma.prot & 7)];
        batch.must("protect its huge pages", libc::SYS_mprotect, &args);
    }
    process.run(0, batch)?;
    Ok(())
}
