//! Credentials and limits.

use crate::error::BadField;
use crate::messages::{CredsEntry, RlimitEntry};
use crate::state::{Creds, Rlimit};

impl From<&Creds> for CredsEntry {
    fn from(creds: &Creds) -> Self {
        let [uid, euid, suid, fsuid] = creds.uids;
        let [gid, egid, sgid, fsgid] = creds.gids;
        Self {
            uid,
            gid,
            euid,
            egid,
            suid,
            sgid,
            fsuid,
            fsgid,
            cap_inh: words(creds.cap_inheritable),
            cap_prm: words(creds.cap_permitted),
            cap_eff: words(creds.cap_effective),
            cap_bnd: words(creds.cap_bounding),
            secbits: creds.securebits,
            groups: creds.groups.clone(),
            lsm_profile: None,
            lsm_sockcreate: None,
            apparmor_data: None,
            no_new_privs: creds.no_new_privs.then_some(1),
            cap_amb: words(creds.cap_ambient),
        }
    }
}

impl TryFrom<CredsEntry> for Creds {
    type Error = BadField;

    fn try_from(entry: CredsEntry) -> Result<Self, BadField> {
        if entry.lsm_profile.is_some() || entry.lsm_sockcreate.is_some() {
            let what = "a label of a security module (SELinux, AppArmor)";
            return Err(BadField::unsupported("thread_core.creds.lsm_profile", what));
        }
        if entry.groups.len() > 65_536 {
            let count = entry.groups.len();
            return Err(BadField::count("thread_core.creds.groups", count, "at most 65536"));
        }
        Ok(Self {
            uids: [entry.uid, entry.euid, entry.suid, entry.fsuid],
            gids: [entry.gid, entry.egid, entry.sgid, entry.fsgid],
            groups: entry.groups,
            cap_inheritable: capabilities("thread_core.creds.cap_inh", &entry.cap_inh)?,
            cap_permitted: capabilities("thread_core.creds.cap_prm", &entry.cap_prm)?,
            cap_effective: capabilities("thread_core.creds.cap_eff", &entry.cap_eff)?,
            cap_bounding: capabilities("thread_core.creds.cap_bnd", &entry.cap_bnd)?,
            cap_ambient: capabilities("thread_core.creds.cap_amb", &entry.cap_amb)?,
            securebits: entry.secbits,
            no_new_privs: entry.no_new_privs.unwrap_or(0) != 0,
        })
    }
}

/// The low word, then the high one.
pub(super) fn words(both: u64) -> Vec<u32> {
    let [a, b, c, d, e, f, g, h] = both.to_le_bytes();
    vec![u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn capabilities(field: &'static str, words: &[u32]) -> Result<u64, BadField> {
    match *words {
        [] => Ok(0),
        [low] => Ok(u64::from(low)),
        [low, high] => Ok(u64::from(low) | u64::from(high) << 32),
        _ => Err(BadField::count(field, words.len(), "two words")),
    }
}

impl From<&Rlimit> for RlimitEntry {
    fn from(limit: &Rlimit) -> Self {
        Self { cur: limit.soft, max: limit.hard }
    }
}

impl From<&RlimitEntry> for Rlimit {
    fn from(entry: &RlimitEntry) -> Self {
        Self { soft: entry.cur, hard: entry.max }
    }
}
