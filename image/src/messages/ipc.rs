//! sysvipc(7): `ipcns-*-N.img`.

use prost::Message;
use serde::Serialize;

/// What every object has.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct IpcDescEntry {
    #[prost(uint32, required, tag = "1")]
    pub key: u32,
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
    #[prost(uint32, required, tag = "4")]
    pub cuid: u32,
    #[prost(uint32, required, tag = "5")]
    pub cgid: u32,
    #[prost(uint32, required, tag = "6")]
    pub mode: u32,
    #[prost(uint32, required, tag = "7")]
    pub id: u32,
}

/// Limits of the namespace.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct IpcVarEntry {
    #[prost(uint32, repeated, packed = "false", tag = "1")]
    pub sem_ctls: Vec<u32>,
    #[prost(uint32, required, tag = "2")]
    pub msg_ctlmax: u32,
    #[prost(uint32, required, tag = "3")]
    pub msg_ctlmnb: u32,
    #[prost(uint32, required, tag = "4")]
    pub msg_ctlmni: u32,
    #[prost(uint32, required, tag = "5")]
    pub auto_msgmni: u32,
    #[prost(uint64, required, tag = "6")]
    pub shm_ctlmax: u64,
    #[prost(uint64, required, tag = "7")]
    pub shm_ctlall: u64,
    #[prost(uint32, required, tag = "8")]
    pub shm_ctlmni: u32,
    #[prost(uint32, required, tag = "9")]
    pub shm_rmid_forced: u32,
    #[prost(uint32, required, tag = "10")]
    pub mq_queues_max: u32,
    #[prost(uint32, required, tag = "11")]
    pub mq_msg_max: u32,
    #[prost(uint32, required, tag = "12")]
    pub mq_msgsize_max: u32,
    #[prost(uint32, optional, tag = "13")]
    pub mq_msg_default: Option<u32>,
    #[prost(uint32, optional, tag = "14")]
    pub mq_msgsize_default: Option<u32>,
    #[prost(uint32, optional, tag = "15")]
    pub msg_next_id: Option<u32>,
    #[prost(uint32, optional, tag = "16")]
    pub sem_next_id: Option<u32>,
    #[prost(uint32, optional, tag = "17")]
    pub shm_next_id: Option<u32>,
}

/// Shared memory; the content is a pagemap.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct IpcShmEntry {
    #[prost(message, required, tag = "1")]
    pub desc: IpcDescEntry,
    #[prost(uint64, required, tag = "2")]
    pub size: u64,
    #[prost(bool, optional, tag = "3")]
    pub in_pagemaps: Option<bool>,
    #[prost(uint32, optional, tag = "4")]
    pub hugetlb_flag: Option<u32>,
}

/// Semaphores; their values follow the entry, padded to eight bytes.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct IpcSemEntry {
    #[prost(message, required, tag = "1")]
    pub desc: IpcDescEntry,
    #[prost(uint32, required, tag = "2")]
    pub nsems: u32,
}

/// A message queue; its messages follow the entry.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct IpcMsgEntry {
    #[prost(message, required, tag = "1")]
    pub desc: IpcDescEntry,
    #[prost(uint32, required, tag = "2")]
    pub qbytes: u32,
    #[prost(uint32, required, tag = "3")]
    pub qnum: u32,
}

/// One message; its bytes follow the entry, padded to eight.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct IpcMsg {
    #[prost(uint64, required, tag = "1")]
    pub mtype: u64,
    #[prost(uint32, required, tag = "2")]
    pub msize: u32,
}
