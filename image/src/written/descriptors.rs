//! Descriptor tables: `fdinfo-N.img`.

use std::collections::{BTreeSet, HashMap};

use super::{Reader, Writer, files};
use crate::error::{BadField, BadImage};
use crate::kind::ImageKind;
use crate::messages::{FdType, FdinfoEntry};
use crate::state::{Fd, FdTable, FdTableId, FileId, Task};

const CLOSE_ON_EXEC: u32 = 1;

pub(super) fn write(writer: &mut Writer<'_>) {
    let checkpoint = writer.checkpoint;
    let types: HashMap<FileId, FdType> =
        checkpoint.files.iter().map(|file| (file.id, files::type_of(&file.kind))).collect();
    for table in &checkpoint.fd_tables {
        let entry = |fd: &Fd| FdinfoEntry {
            id: fd.file.0,
            flags: if fd.close_on_exec { CLOSE_ON_EXEC } else { 0 },
            r#type: types.get(&fd.file).copied().unwrap_or(FdType::Und) as i32,
            fd: fd.number,
            xattr_security_selinux: None,
        };
        writer.many(ImageKind::FdInfo, table.id.0, table.fds.iter().map(entry));
    }
}

/// The tables of all tasks. A missing image is a table without descriptors.
pub(super) fn read(reader: &Reader<'_>, tasks: &[Task]) -> Result<Vec<FdTable>, BadImage> {
    let ids: BTreeSet<FdTableId> =
        tasks.iter().filter_map(|task| task.living()).map(|living| living.fds).collect();
    let mut tables = Vec::new();
    for id in ids {
        let mut fds = Vec::new();
        reader.each(ImageKind::FdInfo, id.0, |entry: FdinfoEntry| {
            if entry.fd > i32::MAX.cast_unsigned() {
                return Err(BadField::value("fd", entry.fd, "a descriptor's number"));
            }
            let close_on_exec = entry.flags & CLOSE_ON_EXEC != 0;
            fds.push(Fd { number: entry.fd, file: FileId(entry.id), close_on_exec });
            Ok(())
        })?;
        fds.sort_by_key(|fd| fd.number);
        tables.push(FdTable { id, fds });
    }
    Ok(tables)
}

/// Each descriptor says again what its file is.
pub(super) fn check_types(
    reader: &Reader<'_>,
    tables: &[FdTable],
    types: &HashMap<FileId, i32>,
) -> Result<(), BadImage> {
    let check = |entry: FdinfoEntry| match types.get(&FileId(entry.id)) {
        None => Err(BadField::unresolved("id", "file", entry.id)),
        Some(kind) if *kind != entry.r#type => {
            Err(BadField::kind("type", entry.id, "what the descriptor says it is"))
        }
        Some(_) => Ok(()),
    };
    tables.iter().try_for_each(|table| reader.each(ImageKind::FdInfo, table.id.0, check))
}
