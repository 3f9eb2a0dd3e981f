//! CRIU's RPC messages: the fields qmig uses, with CRIU's numbers.

use prost::{Enumeration, Message};

/// What a request asks, and what an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(crate) enum RequestType {
    Empty = 0,
    Dump = 1,
    Restore = 2,
    Check = 3,
    PreDump = 4,
    PageServer = 5,
    Notify = 6,
    CpuinfoDump = 7,
    CpuinfoCheck = 8,
    FeatureCheck = 9,
    Version = 10,
}

/// `criu_req`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(enumeration = "RequestType", required, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) options: Option<Options>,
    #[prost(bool, optional, tag = "3")]
    pub(crate) notify_success: Option<bool>,
    #[prost(message, optional, tag = "5")]
    pub(crate) features: Option<FeatureList>,
}

/// `criu_opts`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Options {
    #[prost(int32, required, tag = "1")]
    pub(crate) images_dir_fd: i32,
    #[prost(int32, optional, tag = "2")]
    pub(crate) pid: Option<i32>,
    #[prost(bool, optional, tag = "5")]
    pub(crate) tcp_established: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub(crate) shell_job: Option<bool>,
    #[prost(bool, optional, tag = "8")]
    pub(crate) file_locks: Option<bool>,
    #[prost(int32, optional, tag = "9")]
    pub(crate) log_level: Option<i32>,
    #[prost(string, optional, tag = "10")]
    pub(crate) log_file: Option<String>,
    #[prost(message, optional, tag = "11")]
    pub(crate) page_server: Option<PageServerInfo>,
    #[prost(bool, optional, tag = "12")]
    pub(crate) notify_scripts: Option<bool>,
    #[prost(bool, optional, tag = "16")]
    pub(crate) auto_dedup: Option<bool>,
    #[prost(int32, optional, tag = "17")]
    pub(crate) work_dir_fd: Option<i32>,
    #[prost(bool, optional, tag = "26")]
    pub(crate) rst_sibling: Option<bool>,
    #[prost(uint32, optional, tag = "35")]
    pub(crate) ghost_limit: Option<u32>,
    #[prost(bool, optional, tag = "48")]
    pub(crate) lazy_pages: Option<bool>,
    #[prost(bool, optional, tag = "52")]
    pub(crate) tcp_close: Option<bool>,
}

/// `criu_page_server_info`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PageServerInfo {
    #[prost(int32, optional, tag = "4")]
    pub(crate) fd: Option<i32>,
}

/// `criu_features`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FeatureList {
    #[prost(bool, optional, tag = "1")]
    pub(crate) mem_track: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub(crate) lazy_pages: Option<bool>,
}

/// `criu_resp`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(enumeration = "RequestType", required, tag = "1")]
    pub(crate) kind: i32,
    #[prost(bool, required, tag = "2")]
    pub(crate) success: bool,
    #[prost(message, optional, tag = "4")]
    pub(crate) restore: Option<RestoreResponse>,
    #[prost(message, optional, tag = "5")]
    pub(crate) notify: Option<Notify>,
    #[prost(int32, optional, tag = "7")]
    pub(crate) errno: Option<i32>,
    #[prost(message, optional, tag = "8")]
    pub(crate) features: Option<FeatureList>,
}

/// `criu_restore_resp`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RestoreResponse {
    #[prost(int32, required, tag = "1")]
    pub(crate) pid: i32,
}

/// `criu_notify`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Notify {
    #[prost(string, optional, tag = "1")]
    pub(crate) script: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) pid: Option<i32>,
}
