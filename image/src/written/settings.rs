//! Settings: fields of qmig's own in `core-N.img`, which CRIU skips.

use crate::error::BadField;
use crate::messages::SettingEntry;
use crate::state::{Setting, SettingKind};

/// As they are written.
pub(super) fn entries(settings: &[Setting]) -> Vec<SettingEntry> {
    settings.iter().map(|one| SettingEntry { what: one.what as u32, value: one.value }).collect()
}

/// Reads those that `known` may be, each once.
pub(super) fn settings(
    field: &'static str,
    entries: &[SettingEntry],
    known: &[SettingKind],
) -> Result<Vec<Setting>, BadField> {
    if entries.len() > known.len() {
        return Err(BadField::count(field, entries.len(), "each setting once"));
    }
    let mut settings: Vec<Setting> = Vec::with_capacity(entries.len());
    for entry in entries {
        let what = known.iter().find(|what| **what as u32 == entry.what);
        let what = *what.ok_or_else(|| BadField::unsupported(field, "a setting not known here"))?;
        if settings.iter().any(|earlier| earlier.what == what) {
            return Err(BadField::value(field, entry.what, "each setting once"));
        }
        settings.push(Setting { what, value: entry.value });
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_known_and_there_once() {
        let slice = Setting { what: SettingKind::Slice, value: 3_000_000 };
        let written = entries(&[slice]);
        let read = |entries: &[SettingEntry], known: &[SettingKind]| settings("f", entries, known);
        assert_eq!(read(&written, &SettingKind::OF_THREAD).ok(), Some(vec![slice]));
        assert!(read(&written, &SettingKind::OF_PROCESS).is_err(), "of another kind");
        let twice = [written.clone(), written].concat();
        assert!(read(&twice, &SettingKind::OF_THREAD).is_err(), "twice");
        assert!(read(&vec![SettingEntry::default(); 99], &SettingKind::OF_THREAD).is_err(), "many");
    }
}
