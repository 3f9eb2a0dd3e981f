//! A plan as bytes: a protobuf message of qmig's own. Fields are only ever added.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use pages::{ByteCount, TaskId};
use prost::Message;

use super::{Cpu, LONGEST_PLAN, Listener, Plan, PlannedFile, PlannedKind, PlannedTask, Protocol};
use crate::error::{BadField, Flaw};
use crate::state::check::{absolute_path, bounded_text, task_id};

/// A plan that cannot be: the fault of whoever sent it.
#[derive(Debug, thiserror::Error)]
pub enum BadPlan {
    /// It is too long.
    #[error("the plan has {got} bytes; at most {LONGEST_PLAN} are allowed")]
    TooLong {
        /// Its length.
        got: usize,
    },
    /// It is no message.
    #[error("the plan is not a protobuf message")]
    Message(#[from] prost::DecodeError),
    /// A field says what cannot be.
    #[error("the plan's {field} {flaw}")]
    Field {
        /// The field, as a path from the plan.
        field: &'static str,
        /// What is wrong.
        flaw: Flaw,
    },
}

impl From<BadField> for BadPlan {
    fn from(BadField { field, flaw }: BadField) -> Self {
        Self::Field { field, flaw }
    }
}

const LONGEST_TEXT: usize = 256;
const LONGEST_UNIX_NAME: usize = 108;

#[derive(Clone, PartialEq, Message)]
struct PlanMessage {
    #[prost(string, tag = "1")]
    qmig_version: String,
    #[prost(string, tag = "2")]
    kernel: String,
    #[prost(string, tag = "3")]
    architecture: String,
    #[prost(uint32, tag = "4")]
    page_size: u32,
    #[prost(string, tag = "5")]
    hostname: String,
    #[prost(uint64, tag = "6")]
    cpu_features: u64,
    #[prost(uint32, tag = "7")]
    cpu_xsave_size: u32,
    #[prost(string, tag = "8")]
    cpu_vendor: String,
    #[prost(bytes = "vec", tag = "9")]
    vdso: Vec<u8>,
    #[prost(uint32, tag = "10")]
    root: u32,
    #[prost(string, tag = "11")]
    command: String,
    #[prost(message, repeated, tag = "12")]
    tasks: Vec<TaskMessage>,
    #[prost(message, repeated, tag = "13")]
    files: Vec<FileMessage>,
    #[prost(message, repeated, tag = "14")]
    listeners: Vec<ListenerMessage>,
    #[prost(bytes = "vec", repeated, tag = "15")]
    unix_names: Vec<Vec<u8>>,
    #[prost(uint64, repeated, tag = "16")]
    hard_limits: Vec<u64>,
    #[prost(uint32, tag = "17")]
    highest_fd: u32,
    #[prost(uint64, tag = "18")]
    resident: u64,
    #[prost(uint64, tag = "19")]
    ghosts: u64,
    #[prost(bool, tag = "20")]
    shell_job: bool,
    #[prost(string, repeated, tag = "21")]
    needs: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct TaskMessage {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint32, optional, tag = "2")]
    parent: Option<u32>,
    #[prost(string, tag = "3")]
    comm: String,
    #[prost(uint32, repeated, tag = "4")]
    threads: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
struct FileMessage {
    #[prost(string, tag = "1")]
    path: String,
    /// The file type bits of st_mode, shifted down: 8 regular, 4 directory, 2 and 6 devices.
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(uint64, optional, tag = "3")]
    size: Option<u64>,
    #[prost(uint32, tag = "4")]
    mode: u32,
    #[prost(bytes = "vec", optional, tag = "5")]
    build_id: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "6")]
    rdev: Option<u64>,
    #[prost(string, tag = "7")]
    used_as: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListenerMessage {
    /// IPPROTO_*.
    #[prost(uint32, tag = "1")]
    protocol: u32,
    /// 4 or 16 bytes in network order.
    #[prost(bytes = "vec", tag = "2")]
    address: Vec<u8>,
    #[prost(uint32, tag = "3")]
    port: u32,
    #[prost(bool, tag = "4")]
    v6_only: bool,
}

impl Plan {
    /// As bytes to send.
    pub fn to_bytes(&self) -> Vec<u8> {
        PlanMessage::from(self).encode_to_vec()
    }

    /// From bytes of a peer: everything is checked that readers rely on.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadPlan> {
        if bytes.len() > LONGEST_PLAN {
            return Err(BadPlan::TooLong { got: bytes.len() });
        }
        Ok(Self::try_from(PlanMessage::decode(bytes)?)?)
    }
}

impl From<&Plan> for PlanMessage {
    fn from(plan: &Plan) -> Self {
        Self {
            qmig_version: plan.qmig_version.clone(),
            kernel: plan.kernel.clone(),
            architecture: plan.architecture.clone(),
            page_size: plan.page_size,
            hostname: plan.hostname.clone(),
            cpu_features: plan.cpu.features,
            cpu_xsave_size: plan.cpu.xsave_size,
            cpu_vendor: plan.cpu.vendor.clone(),
            vdso: plan.vdso.clone(),
            root: plan.root.0,
            command: plan.command.clone(),
            tasks: plan.tasks.iter().map(TaskMessage::from).collect(),
            files: plan.files.iter().map(FileMessage::from).collect(),
            listeners: plan.listeners.iter().map(ListenerMessage::from).collect(),
            unix_names: plan.unix_names.clone(),
            hard_limits: plan.hard_limits.to_vec(),
            highest_fd: plan.highest_fd,
            resident: plan.resident.0,
            ghosts: plan.ghosts.0,
            shell_job: plan.shell_job,
            needs: plan.needs.clone(),
        }
    }
}

impl TryFrom<PlanMessage> for Plan {
    type Error = BadField;

    fn try_from(plan: PlanMessage) -> Result<Self, BadField> {
        for (field, text) in [
            ("qmig_version", &plan.qmig_version),
            ("kernel", &plan.kernel),
            ("architecture", &plan.architecture),
            ("hostname", &plan.hostname),
            ("cpu.vendor", &plan.cpu_vendor),
            ("command", &plan.command),
        ] {
            bounded_text(field, text, LONGEST_TEXT)?;
        }
        plan.needs.iter().try_for_each(|need| bounded_text("needs", need, LONGEST_TEXT))?;
        if !plan.page_size.is_power_of_two() {
            return Err(BadField::value("page_size", plan.page_size, "a power of two"));
        }
        if plan.vdso.len() > 64 {
            return Err(BadField::count("vdso", plan.vdso.len(), "at most 64 bytes of a hash"));
        }
        if let Some(long) = plan.unix_names.iter().find(|name| name.len() > LONGEST_UNIX_NAME) {
            return Err(BadField::count("unix_names", long.len(), "at most 108 bytes"));
        }
        let limits = plan.hard_limits.len();
        let tasks = plan.tasks.into_iter().map(PlannedTask::try_from);
        let files = plan.files.into_iter().map(PlannedFile::try_from);
        let listeners = plan.listeners.into_iter().map(Listener::try_from);
        let plan = Self {
            qmig_version: plan.qmig_version,
            kernel: plan.kernel,
            architecture: plan.architecture,
            page_size: plan.page_size,
            hostname: plan.hostname,
            cpu: Cpu {
                features: plan.cpu_features,
                xsave_size: plan.cpu_xsave_size,
                vendor: plan.cpu_vendor,
            },
            vdso: plan.vdso,
            root: task_id("root", plan.root)?,
            command: plan.command,
            tasks: tasks.collect::<Result<_, _>>()?,
            files: files.collect::<Result<_, _>>()?,
            listeners: listeners.collect::<Result<_, _>>()?,
            unix_names: plan.unix_names,
            hard_limits: plan
                .hard_limits
                .try_into()
                .map_err(|_| BadField::count("hard_limits", limits, "16 limits"))?,
            highest_fd: plan.highest_fd,
            resident: ByteCount(plan.resident),
            ghosts: ByteCount(plan.ghosts),
            shell_job: plan.shell_job,
            needs: plan.needs,
        };
        check_tree(&plan)?;
        Ok(plan)
    }
}

/// Parents first, one root, no number twice.
fn check_tree(plan: &Plan) -> Result<(), BadField> {
    if plan.tasks.first().map(|task| task.id) != Some(plan.root) {
        return Err(BadField::unresolved("root", "as first task", plan.root.0));
    }
    let (mut tasks, mut threads) = (HashSet::new(), HashSet::new());
    for (index, task) in plan.tasks.iter().enumerate() {
        match task.parent {
            None if index > 0 => return Err(BadField::missing("tasks.parent")),
            Some(parent) if !tasks.contains(&parent) => {
                return Err(BadField::unresolved("tasks.parent", "an earlier task", parent.0));
            }
            _ => {}
        }
        tasks.insert(task.id);
        if task.threads.first() != Some(&task.id) {
            return Err(BadField::unresolved("tasks.threads", "as first thread", task.id.0));
        }
        if let Some(twice) = task.threads.iter().find(|thread| !threads.insert(**thread)) {
            return Err(BadField::twice("tasks.threads", "thread", twice.0));
        }
    }
    Ok(())
}

impl From<&PlannedTask> for TaskMessage {
    fn from(task: &PlannedTask) -> Self {
        Self {
            id: task.id.0,
            parent: task.parent.map(|parent| parent.0),
            comm: task.comm.clone(),
            threads: task.threads.iter().map(|thread| thread.0).collect(),
        }
    }
}

impl TryFrom<TaskMessage> for PlannedTask {
    type Error = BadField;

    fn try_from(task: TaskMessage) -> Result<Self, BadField> {
        bounded_text("tasks.comm", &task.comm, LONGEST_TEXT)?;
        let threads = task.threads.into_iter().map(|id| task_id("tasks.threads", id));
        Ok(Self {
            id: task_id("tasks.id", task.id)?,
            parent: task.parent.map(|id| task_id("tasks.parent", id)).transpose()?,
            comm: task.comm,
            threads: threads.collect::<Result<Vec<TaskId>, _>>()?,
        })
    }
}

impl From<&PlannedFile> for FileMessage {
    fn from(file: &PlannedFile) -> Self {
        Self {
            path: file.path.clone(),
            kind: match file.kind {
                PlannedKind::Fifo => 1,
                PlannedKind::CharDevice => 2,
                PlannedKind::Directory => 4,
                PlannedKind::BlockDevice => 6,
                PlannedKind::Regular => 8,
            },
            size: file.size,
            mode: file.mode,
            build_id: file.build_id.clone(),
            rdev: file.rdev,
            used_as: file.used_as.clone(),
        }
    }
}

impl TryFrom<FileMessage> for PlannedFile {
    type Error = BadField;

    fn try_from(file: FileMessage) -> Result<Self, BadField> {
        absolute_path("files.path", &file.path)?;
        bounded_text("files.used_as", &file.used_as, LONGEST_TEXT)?;
        if let Some(long) = file.build_id.as_ref().filter(|id| id.len() > 64) {
            return Err(BadField::count("files.build_id", long.len(), "at most 64 bytes"));
        }
        Ok(Self {
            path: file.path,
            kind: match file.kind {
                1 => PlannedKind::Fifo,
                2 => PlannedKind::CharDevice,
                4 => PlannedKind::Directory,
                6 => PlannedKind::BlockDevice,
                8 => PlannedKind::Regular,
                other => return Err(BadField::value("files.kind", other, "1, 2, 4, 6 or 8")),
            },
            size: file.size,
            mode: file.mode,
            build_id: file.build_id,
            rdev: file.rdev,
            used_as: file.used_as,
        })
    }
}

impl From<&Listener> for ListenerMessage {
    fn from(listener: &Listener) -> Self {
        Self {
            protocol: match listener.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            },
            address: match listener.address.ip() {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            },
            port: u32::from(listener.address.port()),
            v6_only: listener.v6_only,
        }
    }
}

impl TryFrom<ListenerMessage> for Listener {
    type Error = BadField;

    fn try_from(listener: ListenerMessage) -> Result<Self, BadField> {
        let protocol = match listener.protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            other => return Err(BadField::value("listeners.protocol", other, "6 or 17")),
        };
        let port = u16::try_from(listener.port)
            .map_err(|_| BadField::value("listeners.port", listener.port, "a port"))?;
        let bytes = listener.address.as_slice();
        let ip = if let Ok(four) = <[u8; 4]>::try_from(bytes) {
            IpAddr::from(four)
        } else if let Ok(sixteen) = <[u8; 16]>::try_from(bytes) {
            IpAddr::from(sixteen)
        } else {
            return Err(BadField::count("listeners.address", bytes.len(), "4 or 16 bytes"));
        };
        Ok(Self { protocol, address: SocketAddr::new(ip, port), v6_only: listener.v6_only })
    }
}
