//! Pipes and fifos, with `pipes-data.img` and `fifo-data.img`.

use prost::Message;
use serde::Serialize;

use super::FownEntry;

/// One end of a pipe.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct PipeEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub pipe_id: u32,
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
}

/// One end of a fifo.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct FifoEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub pipe_id: u32,
    #[prost(uint32, optional, tag = "3")]
    pub regf_id: Option<u32>,
}

/// What is in a pipe; `bytes` bytes follow the entry.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct PipeDataEntry {
    #[prost(uint32, required, tag = "1")]
    pub pipe_id: u32,
    #[prost(uint32, required, tag = "2")]
    pub bytes: u32,
    #[prost(uint32, optional, tag = "3")]
    pub size: Option<u32>,
}
