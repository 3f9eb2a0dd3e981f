//! Namespaces and other kernel objects that tasks may share: `inventory.img`, `ids-N.img`,
//! `timens-N.img`.
//!
//! Every namespace id that qmig writes is the same in the inventory and for each task, which means:
//! inherited from whoever restores. Only a tree whose root is pid 1 says that its pid namespace is
//! its own.

use pages::TaskId;

use super::threads::CGROUP_SET;
use super::{Reader, Writer};
use crate::error::{BadField, BadImage};
use crate::kind::ImageKind;
use crate::messages::{CoreEntry, InventoryEntry, LsmType, TaskKobjIdsEntry, TimensEntry};
use crate::state::{Checkpoint, Clocks};

/// Namespace ids to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // namespaces(7) names them
pub struct NamespaceIds {
    pub pid: u32,
    pub net: u32,
    pub ipc: u32,
    pub uts: u32,
    pub mnt: u32,
    pub user: u32,
    pub cgroup: u32,
    pub time: u32,
}

impl Default for NamespaceIds {
    fn default() -> Self {
        Self { pid: 1, net: 2, ipc: 3, uts: 4, mnt: 5, user: 6, cgroup: 7, time: 8 }
    }
}

impl From<&NamespaceIds> for TaskKobjIdsEntry {
    fn from(ids: &NamespaceIds) -> Self {
        Self {
            pid_ns_id: Some(ids.pid),
            net_ns_id: Some(ids.net),
            ipc_ns_id: Some(ids.ipc),
            uts_ns_id: Some(ids.uts),
            mnt_ns_id: Some(ids.mnt),
            user_ns_id: Some(ids.user),
            cgroup_ns_id: Some(ids.cgroup),
            time_ns_id: Some(ids.time),
            ..Self::default()
        }
    }
}

/// What the inventory calls "network lock: none"; RPC numbers it 3.
const NO_NETWORK_LOCK: u32 = 2;

pub(super) fn write(writer: &mut Writer<'_>) {
    let checkpoint = writer.checkpoint;
    writer.one(ImageKind::TimeNs, 0, &TimensEntry::from(&checkpoint.clocks));
    let filters = writer.chains.entry().clone();
    writer.one(ImageKind::Seccomp, 0, &filters);
    let root_ids = TaskKobjIdsEntry {
        vm_id: 1,
        files_id: unused_files_id(checkpoint),
        fs_id: 1,
        sighand_id: 1,
        ..writer.namespaces.into()
    };
    let root_ids = match checkpoint.tasks.first() {
        Some(root) if root.id == TaskId(1) => {
            let other = writer.namespaces.pid.wrapping_add(1).max(1);
            TaskKobjIdsEntry { pid_ns_id: Some(other), ..root_ids }
        }
        _ => root_ids,
    };
    let inventory = InventoryEntry {
        img_version: 2,
        fdinfo_per_id: Some(true),
        root_ids: Some(root_ids),
        ns_per_id: Some(true),
        root_cg_set: Some(CGROUP_SET),
        lsmtype: Some(LsmType::NoLsm as i32),
        network_lock_method: Some(NO_NETWORK_LOCK),
        ..InventoryEntry::default()
    };
    writer.one(ImageKind::Inventory, 0, &inventory);
}

/// A descriptor table that no task has: that of whoever restores.
fn unused_files_id(checkpoint: &Checkpoint) -> u32 {
    let used = |id: u32| checkpoint.fd_tables.iter().any(|table| table.id.0 == id);
    (1..).find(|id| !used(*id)).expect("fewer tables than numbers")
}

/// The inventory, checked; everything else is read by what it says.
pub(super) fn read_inventory(reader: &Reader<'_>) -> Result<TaskKobjIdsEntry, BadImage> {
    let inventory: InventoryEntry = reader.one(ImageKind::Inventory, 0)?;
    let at = |lie: BadField| lie.at(ImageKind::Inventory.name(0), 1);
    if inventory.img_version != 2 {
        return Err(at(BadField::value("img_version", inventory.img_version, "2")));
    }
    if inventory.fdinfo_per_id != Some(true) {
        return Err(at(BadField::missing("fdinfo_per_id")));
    }
    if inventory.plugins_entry.as_ref().is_some_and(|entry| !entry.plugins.is_empty()) {
        return Err(at(BadField::unsupported("plugins_entry", "state of a plugin of CRIU")));
    }
    inventory.root_ids.ok_or_else(|| at(BadField::missing("root_ids")))
}

/// The ids of a task, which must stand in the namespaces of whoever dumped it.
pub(super) fn read_ids(
    reader: &Reader<'_>,
    task: TaskId,
    core: &CoreEntry,
) -> Result<TaskKobjIdsEntry, BadImage> {
    let ids = match reader.images.get(&ImageKind::Ids.name(task.0)) {
        None if core.ids.is_some() => core.ids.as_deref().cloned().unwrap_or_default(),
        _ => reader.one(ImageKind::Ids, task.0)?,
    };
    let root = &reader.root_ids;
    let own_pid_namespace = reader.root == Some(TaskId(1));
    let foreign = [
        ("pid_ns_id", ids.pid_ns_id, root.pid_ns_id, "a pid namespace of its own"),
        ("net_ns_id", ids.net_ns_id, root.net_ns_id, "a network namespace of its own"),
        ("ipc_ns_id", ids.ipc_ns_id, root.ipc_ns_id, "an ipc namespace of its own"),
        ("uts_ns_id", ids.uts_ns_id, root.uts_ns_id, "a uts namespace of its own"),
        ("mnt_ns_id", ids.mnt_ns_id, root.mnt_ns_id, "a mount namespace of its own"),
        ("user_ns_id", ids.user_ns_id, root.user_ns_id, "a user namespace of its own"),
        ("cgroup_ns_id", ids.cgroup_ns_id, root.cgroup_ns_id, "a cgroup namespace of its own"),
    ]
    .into_iter()
    .filter(|_| !reader.anywhere)
    .filter(|(field, ..)| !(own_pid_namespace && *field == "pid_ns_id"))
    .find(|(_, task, root, _)| task != root);
    match foreign {
        Some((field, _, _, what)) => {
            Err(BadField::unsupported(field, what).at(ImageKind::Ids.name(task.0), 1))
        }
        None => Ok(ids),
    }
}

/// What the clocks of the tree showed. A tree in a time namespace of its own (every restored one is)
/// has an image with that namespace's number.
pub(super) fn read_clocks(reader: &Reader<'_>, root: TaskId) -> Result<Clocks, BadImage> {
    let ids = ImageKind::Ids.name(root.0);
    let own = match reader.images.get(&ids) {
        Some(_) => reader.one::<TaskKobjIdsEntry>(ImageKind::Ids, root.0)?.time_ns_id,
        None => None,
    };
    let number =
        own.filter(|own| reader.images.get(&ImageKind::TimeNs.name(*own)).is_some()).unwrap_or(0);
    let entry: TimensEntry = reader.one(ImageKind::TimeNs, number)?;
    Clocks::try_from(&entry).map_err(|lie| lie.at(ImageKind::TimeNs.name(number), 1))
}
