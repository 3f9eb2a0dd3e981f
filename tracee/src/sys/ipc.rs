//! System V: semaphores, message queues, segments of shared memory.

use nix::errno::Errno;

/// shmctl(2) IPC_RMID.
pub(crate) fn remove_segment(id: i32) -> nix::Result<()> {
    // SAFETY: IPC_RMID looks at no buffer.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

/// semctl(2) IPC_RMID.
pub(crate) fn remove_semaphores(id: i32) -> nix::Result<()> {
    // SAFETY: IPC_RMID looks at no buffer.
    Errno::result(unsafe { libc::semctl(id, 0, libc::IPC_RMID) }).map(drop)
}

/// msgctl(2) IPC_RMID.
pub(crate) fn remove_queue(id: i32) -> nix::Result<()> {
    // SAFETY: IPC_RMID looks at no buffer.
    Errno::result(unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

/// Questions about one semaphore that are answered with a number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask {
    /// Who used it last.
    User,
    /// Its value.
    Value,
    /// How many wait for it to rise.
    WaitingToRise,
    /// How many wait for it to be zero.
    WaitingForZero,
}

/// semctl(2) GETPID, GETVAL, GETNCNT, GETZCNT.
pub(crate) fn semaphore(id: i32, number: u32, ask: Ask) -> nix::Result<i32> {
    let command = match ask {
        Ask::User => libc::GETPID,
        Ask::Value => libc::GETVAL,
        Ask::WaitingToRise => libc::GETNCNT,
        Ask::WaitingForZero => libc::GETZCNT,
    };
    // SAFETY: none of these commands looks at a buffer.
    Errno::result(unsafe { libc::semctl(id, number.cast_signed(), command) })
}

/// msgctl(2) IPC_STAT: how many bytes the queue takes.
pub(crate) fn queue_capacity(id: i32) -> nix::Result<u64> {
    // SAFETY: plain numbers, for which all zeros is a value.
    let mut told: libc::msqid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one live `msqid_ds`, of the size the C library's call promises.
    Errno::result(unsafe { libc::msgctl(id, libc::IPC_STAT, &raw mut told) })?;
    Ok(told.msg_qbytes)
}

/// msgrcv(2) MSG_COPY (Linux 3.8): message `number` of a queue, which stays where it is. Its type is
/// the first eight bytes that are written into `into`; answers how many bytes follow.
pub(crate) fn peek_message(id: i32, number: u32, into: &mut [u64]) -> nix::Result<usize> {
    const MSG_COPY: i32 = 0o40000;
    let room = std::mem::size_of_val(into).checked_sub(8).ok_or(Errno::EINVAL)?;
    let how = MSG_COPY | libc::IPC_NOWAIT;
    // SAFETY: `into` is live, aligned for the type, and has room for it and `room` bytes more.
    let got = unsafe { libc::msgrcv(id, into.as_mut_ptr().cast(), room, number.into(), how) };
    usize::try_from(Errno::result(got)?).map_err(|_| Errno::EOVERFLOW)
}
