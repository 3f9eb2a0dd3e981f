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

/// `criu_req` of somebody else, who may set options that we do not know.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ForeignRequest {
    #[prost(enumeration = "RequestType", required, tag = "1")]
    pub(crate) kind: i32,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) options: Option<Vec<u8>>,
}

impl ForeignRequest {
    /// The same, but for what `ours` sets: of a field that is there twice the last counts.
    pub(crate) fn with(mut self, ours: &Options) -> Self {
        let options = self.options.get_or_insert_default();
        options.extend(ours.encode_to_vec());
        self
    }
}

/// `criu_network_lock_method`: none.
pub(crate) const NO_NETWORK_LOCK: i32 = 3;

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
    #[prost(uint32, optional, tag = "38")]
    pub(crate) empty_ns: Option<u32>,
    #[prost(bool, optional, tag = "48")]
    pub(crate) lazy_pages: Option<bool>,
    #[prost(bool, optional, tag = "52")]
    pub(crate) tcp_close: Option<bool>,
    #[prost(int32, optional, tag = "64")]
    pub(crate) network_lock: Option<i32>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_set_goes_before_what_a_runtime_set_and_the_rest_stays() {
        let theirs = Options {
            images_dir_fd: 7,
            pid: Some(12),
            file_locks: Some(false),
            ..Options::default()
        };
        let mut options = theirs.encode_to_vec();
        options.extend([0x98, 0x06, 0x05]); // field 99, which is none of ours
        let request = ForeignRequest { kind: RequestType::Dump.into(), options: Some(options) };
        let ours = Options { images_dir_fd: 9, file_locks: Some(true), ..Options::default() };
        let bytes = request.with(&ours).encode_to_vec();
        let both = Request::decode(&*bytes).expect("a request").options.expect("options");
        assert_eq!(both, Options { pid: Some(12), ..ours });
        assert!(bytes.windows(3).any(|three| three == [0x98, 0x06, 0x05]));
    }
}
