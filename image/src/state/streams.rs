//! TCP connections: what two ends agreed on, how far they are, and what is on its way.

/// What an established (or half closed) connection is beyond its socket.
///
/// Numbers count as the kernel's do: a FIN that was sent or received is one more byte of its queue,
/// which is not among the bytes here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpStream {
    /// Received, and not read by the program yet.
    pub received: Vec<u8>,
    /// The number of the next byte that is to be received (rcv_nxt).
    pub receive_next: u32,
    /// Written by the program, and not acknowledged yet.
    pub written: Vec<u8>,
    /// How many of these, the last ones, were never sent.
    pub unsent: u32,
    /// The number of the next byte that is to be written (write_seq).
    pub write_next: u32,
    /// Largest segment that the other end takes.
    pub segment: u32,
    /// Selective acknowledgements.
    pub sack: bool,
    /// Window scales, for what we send and for what we receive; none if they were not agreed on.
    pub scales: Option<(u8, u8)>,
    /// The clock of our timestamps when it was read; none if they were not agreed on.
    pub timestamp: Option<u32>,
    /// `struct tcp_repair_window`, linux/tcp.h; a CRIU on an old kernel does not tell.
    pub window: Option<TcpWindow>,
}

/// Windows, named as in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // linux/tcp.h
pub struct TcpWindow {
    pub snd_wl1: u32,
    pub snd_wnd: u32,
    pub max_window: u32,
    pub rcv_wnd: u32,
    pub rcv_wup: u32,
}
