//! Semaphores and message queues of System V: sysvipc(7). Segments of shared memory are memory, and are
//! among [`super::SharedMemory`].

/// What both have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpcObject {
    /// The number programs know it by; not negative.
    pub id: i32,
    /// Its key; zero is IPC_PRIVATE.
    pub key: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// User and group of whoever made it.
    pub creator: (u32, u32),
    /// Permission bits.
    pub mode: u32,
}

/// A set of semaphores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SemaphoreSet {
    /// Which.
    pub object: IpcObject,
    /// The value of each, at most [`Self::HIGHEST`]; at least one.
    pub values: Vec<u16>,
}

impl SemaphoreSet {
    /// SEMVMX, semget(2).
    pub const HIGHEST: u16 = 32767;
    /// Most semaphores of a set: SEMMSL is 32000 unless an operator raised it.
    pub const MOST: usize = 65536;
}

/// A message queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageQueue {
    /// Which.
    pub object: IpcObject,
    /// Bytes it takes (msg_qbytes, msgctl(2)).
    pub capacity: u32,
    /// Oldest first.
    pub messages: Vec<Message>,
}

impl MessageQueue {
    /// Most bytes of all messages of a queue that are carried; Linux gives a queue 16 KiB unless somebody
    /// raised it.
    pub const MOST_BYTES: usize = 16 << 20;
    /// Most messages of a queue.
    pub const MOST_MESSAGES: usize = 1 << 16;
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type, positive.
    pub kind: i64,
    /// At most [`Self::LONGEST`].
    pub bytes: Vec<u8>,
}

impl Message {
    /// Most bytes of a message: MSGMAX is 8192 unless an operator raised it.
    pub const LONGEST: usize = 512 << 10;
}
