//! Every bound of the wire, and how the bounds relate.
//!
//! A length that comes from the peer is compared with one of these before anything is allocated
//! for it. The relations are checked when the crate is compiled.

use pages::PAGE_SIZE;

/// Bytes of one control frame, without its length field.
pub const MAX_CONTROL_FRAME: usize = 1 << 20;
/// Protocol versions one hello may offer.
pub const MAX_VERSIONS: usize = 32;
/// Bytes of the text by which a qmig names its own release.
pub const MAX_SOFTWARE_BYTES: usize = 64;
/// Reasons one refusal may list.
pub const MAX_REFUSALS: usize = 256;
/// Bytes of the name of a refused object.
pub const MAX_OBJECT_BYTES: usize = 256;
/// Bytes of the place where a refused object was found.
pub const MAX_PLACE_BYTES: usize = 1024;
/// Bytes of one reason: in a refusal, an abort or a close.
pub const MAX_REASON_BYTES: usize = 512;
/// Bytes of one hint.
pub const MAX_HINT_BYTES: usize = 512;
/// Bytes of a blob's name.
pub const MAX_BLOB_NAME_BYTES: usize = 64;
/// Blobs of one migration.
pub const MAX_BLOBS: usize = 4096;
/// Bytes of one blob. Images are small, but the tar of a tmpfs may be as large as a disk.
pub const MAX_BLOB_BYTES: u64 = 1 << 40;
/// Spaces (processes and shared objects) of one migration.
pub const MAX_SPACES: usize = 16_384;
/// Pages of one run that carries bytes: 1 MiB.
pub const MAX_RUN_PAGES: u64 = 256;
/// Bytes one run may carry.
pub const MAX_RUN_BYTES: usize = 1 << 20;
/// Pages of one run of zeros, which carries no bytes: 64 GiB.
pub const MAX_ZERO_RUN_PAGES: u64 = 1 << 24;
/// Pages one fault request may ask for.
pub const MAX_FAULT_PAGES: u64 = 64;
/// Fault requests that may be unanswered at a time.
pub const MAX_FAULTS_OUTSTANDING: usize = 4096;
/// Buckets of a histogram of fault latencies.
pub const MAX_FAULT_BUCKETS: usize = 64;
/// Ranges one message about missing pages may list.
pub const MAX_MISSING_RANGES: usize = 32_768;
/// Bytes of page runs one probe may send: 1 GiB.
pub const MAX_PROBE_BYTES: u64 = 1 << 30;
/// Unidirectional streams the source may have open at a time.
pub const MAX_UNI_STREAMS: u32 = 128;
/// Bidirectional streams the source may have open at a time: the control stream.
pub const MAX_SOURCE_BIDI_STREAMS: u32 = 1;
/// Bidirectional streams the destination may have open at a time: fault streams.
pub const MAX_DESTINATION_BIDI_STREAMS: u32 = 8;

const _: () = {
    // The largest message of each growing kind fits into one frame, with 64 bytes for fixed fields.
    let refusal = MAX_OBJECT_BYTES + MAX_PLACE_BYTES + MAX_REASON_BYTES + MAX_HINT_BYTES + 4 * 2;
    assert!(MAX_REFUSALS * refusal + 64 <= MAX_CONTROL_FRAME);
    let blob = 1 + MAX_BLOB_NAME_BYTES + 8;
    let space = 1 + 4 + 8 + 8;
    assert!(MAX_BLOBS * blob + MAX_SPACES * space + 64 <= MAX_CONTROL_FRAME);
    assert!(MAX_MISSING_RANGES * 16 + 64 <= MAX_CONTROL_FRAME);
    assert!(MAX_MISSING_RANGES <= u16::MAX as usize);
    assert!(MAX_VERSIONS * 2 + MAX_SOFTWARE_BYTES + 64 <= MAX_CONTROL_FRAME);
    // Counts and lengths fit the fields that carry them.
    assert!(MAX_CONTROL_FRAME <= u32::MAX as usize);
    assert!(MAX_REFUSALS <= u16::MAX as usize);
    assert!(MAX_BLOBS <= u16::MAX as usize);
    assert!(MAX_SPACES <= u16::MAX as usize);
    assert!(MAX_PLACE_BYTES <= u16::MAX as usize);
    assert!(MAX_REASON_BYTES <= u16::MAX as usize);
    assert!(MAX_BLOB_NAME_BYTES <= u8::MAX as usize);
    // A run's bytes are exactly its pages, and zeros may be longer than bytes.
    assert!(MAX_RUN_PAGES * PAGE_SIZE as u64 == MAX_RUN_BYTES as u64);
    assert!(MAX_RUN_PAGES <= MAX_ZERO_RUN_PAGES && MAX_ZERO_RUN_PAGES <= u32::MAX as u64);
    // A fault is answered by one run.
    assert!(MAX_FAULT_PAGES <= MAX_RUN_PAGES);
};
