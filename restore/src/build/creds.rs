//! Who a thread is: user, groups, capabilities. The last thing done, because it takes away the
//! right to do anything else. And what a process may use: its limits.
//!
//! Order matters (capabilities(7)): SECBIT_NO_SETUID_FIXUP keeps the capabilities across setresuid;
//! the inheritable set is raised before the bounding set shrinks, because it must lie within it;
//! ambient capabilities are raised before the final securebits, which may forbid it; the final
//! permitted and effective sets come last.

use image::state::{Creds, Rlimit};
use nix::libc;
use tracee::HostPid;

use super::channel::words;
use super::process::{Batch, Process};
use crate::error::Result;

/// SECBIT_NO_SETUID_FIXUP, linux/securebits.h.
const NO_SETUID_FIXUP: u64 = 1 << 2;
/// _LINUX_CAPABILITY_VERSION_3, linux/capability.h.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Highest capability number that a 64-bit set can name.
const LAST_CAP: u64 = 63;

/// Makes thread `thread` of `process` be who `wanted` says. `have` is who it is now.
pub(crate) fn become_owner(
    process: &mut Process,
    thread: usize,
    have: &Creds,
    wanted: &Creds,
) -> Result<()> {
    if have == wanted {
        return Ok(());
    }
    let mut batch = Batch::default();
    if have.groups != wanted.groups {
        let list: Vec<u8> = wanted.groups.iter().flat_map(|gid| gid.to_le_bytes()).collect();
        let at = process.put(&list)?;
        batch.must("set its groups", libc::SYS_setgroups, &[wanted.groups.len() as u64, at]);
    }
    prctl(&mut batch, "keep capabilities", libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0);
    let [real, effective, saved, files] = wanted.gids.map(u64::from);
    batch.must("set its group ids", libc::SYS_setresgid, &[real, effective, saved]);
    if files != effective {
        batch.must("set its group id for files", libc::SYS_setfsgid, &[files]);
    }
    let [real, effective, saved, files] = wanted.uids.map(u64::from);
    batch.must("set its user ids", libc::SYS_setresuid, &[real, effective, saved]);
    if files != effective {
        batch.must("set its user id for files", libc::SYS_setfsuid, &[files]);
    }

    let header = process.put(&[CAPABILITY_VERSION.to_le_bytes(), [0; 4]].concat())?;
    let raised = have.cap_permitted | wanted.cap_permitted;
    let widest =
        capability_sets(raised & have.cap_permitted, have.cap_permitted, wanted.cap_inheritable);
    let widest = process.put(&widest)?;
    batch.must("set its inheritable capabilities", libc::SYS_capset, &[header, widest]);
    for cap in bits(wanted.cap_ambient) {
        let raise = libc::PR_CAP_AMBIENT_RAISE.cast_unsigned();
        let args = [libc::PR_CAP_AMBIENT.cast_unsigned().into(), raise.into(), cap, 0, 0];
        batch.must("raise an ambient capability", libc::SYS_prctl, &args);
    }
    for cap in bits(have.cap_bounding & !wanted.cap_bounding) {
        prctl(&mut batch, "drop a bounding capability", libc::PR_CAPBSET_DROP, cap, 0);
    }
    let securebits = u64::from(wanted.securebits);
    prctl(&mut batch, "set its securebits", libc::PR_SET_SECUREBITS, securebits, 0);
    let last = capability_sets(wanted.cap_effective, wanted.cap_permitted, wanted.cap_inheritable);
    let last = process.put(&last)?;
    batch.must("set its capabilities", libc::SYS_capset, &[header, last]);
    if wanted.no_new_privs && !have.no_new_privs {
        prctl(&mut batch, "forbid it new privileges", libc::PR_SET_NO_NEW_PRIVS, 1, 0);
    }
    process.run(thread, batch)?;
    Ok(())
}

/// Sets the 16 limits from outside; needs CAP_SYS_RESOURCE only to raise a hard one.
pub(crate) fn limit(host: HostPid, limits: &[Rlimit; 16]) -> Result<()> {
    for (resource, limit) in (0..).zip(limits) {
        tracee::host::set_rlimit(host, resource, limit.soft, limit.hard)?;
    }
    Ok(())
}

fn prctl(batch: &mut Batch, act: &'static str, option: libc::c_int, second: u64, third: u64) {
    let option = u64::from(option.cast_unsigned());
    batch.must(act, libc::SYS_prctl, &[option, second, third, 0, 0]);
}

/// The two `struct __user_cap_data_struct` of capset(2): low halves, then high halves.
fn capability_sets(effective: u64, permitted: u64, inheritable: u64) -> Vec<u8> {
    let half =
        |shift: u32| [effective, permitted, inheritable].map(|set| (set >> shift) & 0xffff_ffff);
    let all = [half(0), half(32)].concat();
    words(&all).chunks_exact(8).flat_map(|word| word[..4].to_vec()).collect()
}

fn bits(set: u64) -> impl Iterator<Item = u64> {
    (0..=LAST_CAP).filter(move |bit| set & (1 << bit) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_sets_are_low_halves_first() {
        let sets = capability_sets(0x1_0000_0002, 3, 4);
        let want: Vec<u8> = [2_u32, 3, 4, 1, 0, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(sets, want);
    }

    #[test]
    fn bits_name_the_capabilities_in_a_set() {
        assert_eq!(bits(0b1010_0001).collect::<Vec<_>>(), [0, 5, 7]);
    }
}
