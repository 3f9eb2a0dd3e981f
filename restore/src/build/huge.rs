//! Memory of huge pages. Their kernel writes to no page that its process could not write to, whoever
//! asks: so they are mapped writable, and protected as the program had them when they are filled.

use std::path::Path;

use image::state::{HugeSize, Mm, Vma, VmaKind};
use nix::libc;
use nix::sys::statfs::{HUGETLBFS_MAGIC, statfs};

use super::process::{Batch, Process};
use crate::error::Result;

/// PROT_READ and PROT_WRITE.
const OPEN: u32 = 3;

/// The size of the pages of the file system at `path`, if they are huge.
pub(crate) fn huge_size_of(path: &Path) -> Option<HugeSize> {
    let told = statfs(path).ok().filter(|told| told.filesystem_type() == HUGETLBFS_MAGIC)?;
    HugeSize::of_bytes(u64::try_from(told.block_size()).ok()?)
}

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
