use std::io::Read;
use std::os::unix::net::{UnixDatagram, UnixStream};

use image::state::{File, FileKind, Owner, SocketOptions};
use nix::sys::socket::getsockname;

use super::*;

fn socket_state(inode: u32, peer: u32, kind: u32, state: SocketState) -> UnixSocket {
    UnixSocket {
        inode,
        peer,
        kind,
        state,
        name: Vec::new(),
        name_dir: None,
        deleted: false,
        node: None,
        backlog: 5,
        shutdown: 0,
        options: SocketOptions::default(),
        queue: Vec::new(),
    }
}

fn make(states: &[UnixSocket]) -> Result<(Sockets, HashMap<FileId, OwnedFd>)> {
    let files: Vec<File> = states
        .iter()
        .map(|state| File {
            id: FileId(state.inode),
            flags: 2,
            owner: Owner::default(),
            kind: FileKind::Unix(state.clone()),
        })
        .collect();
    let files: Vec<&File> = files.iter().collect();
    let mut open = HashMap::new();
    let mut made = Sockets::make_all(&files, &View::default(), &[], &mut open)?;
    made.fill(&files, &View::default(), &mut open)?;
    Ok((made, open))
}

#[test]
fn files_come_along_with_their_byte() {
    use std::io::IoSliceMut;

    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    let mut far = socket_state(2, 3, 1, SocketState::Established);
    let near = socket_state(3, 2, 1, SocketState::Established);
    let files = vec![FileId(3), FileId(2)];
    far.queue = vec![
        Packet::plain(*b"before"),
        Packet { bytes: b"xyz".to_vec(), files, from: None },
        Packet::plain(*b"!"),
    ];
    let (_made, open) = make(&[far, near]).expect("made");
    let far = open.get(&FileId(2)).expect("there");
    let mut control = nix::cmsg_space!([i32; 2]);
    let mut receive = |count: usize| {
        let mut bytes = vec![0; count];
        let mut vector = [IoSliceMut::new(&mut bytes)];
        let got =
            recvmsg::<()>(far.as_raw_fd(), &mut vector, Some(&mut control), MsgFlags::empty());
        let got = got.expect("received");
        let rights = got.cmsgs().expect("whole").map(|message| match message {
            ControlMessageOwned::ScmRights(files) => files.len(),
            other => panic!("{other:?}"),
        });
        (got.bytes, rights.sum::<usize>())
    };
    assert_eq!(receive(6), (6, 0));
    assert_eq!(receive(1), (1, 2));
    assert_eq!(receive(9), (3, 0));
}

fn name_of(fd: &OwnedFd) -> Vec<u8> {
    let name: UnixAddr = getsockname(fd.as_raw_fd()).expect("a name");
    match (name.path(), name.as_abstract()) {
        (Some(path), _) => path.as_os_str().as_bytes().to_vec(),
        (None, Some(rest)) => [b"\0", rest].concat(),
        (None, None) => Vec::new(),
    }
}

#[test]
fn a_pair_keeps_what_waited_and_who_is_whose_peer() {
    let mut near = socket_state(1, 2, 1, SocketState::Established);
    near.queue = vec![Packet::plain(vec![9; 300_000])];
    let far = socket_state(2, 1, 1, SocketState::Established);
    let (_, mut open) = make(&[near, far]).expect("a pair");
    let mut near = UnixStream::from(open.remove(&FileId(1)).expect("made"));
    drop(open);
    let mut bytes = Vec::new();
    near.read_to_end(&mut bytes).expect("readable to the end");
    assert_eq!(bytes, vec![9; 300_000]);
}

#[test]
fn packets_keep_their_boundaries_and_a_gone_peer_is_gone() {
    let mut alone = socket_state(1, 0, 5, SocketState::Established);
    alone.queue = vec![Packet::plain(*b"one"), Packet::plain(*b"three")];
    let (_, open) = make(&[alone]).expect("a socket");
    let mut buffer = [0; 16];
    for expected in [3, 5, 0] {
        assert_eq!(nix::unistd::read(&open[&FileId(1)], &mut buffer), Ok(expected));
    }
}

#[test]
fn an_accepted_connection_has_its_listeners_name_again() {
    let name = format!("\0qmig-test-{}", std::process::id()).into_bytes();
    let mut listener = socket_state(1, 0, 1, SocketState::Listening);
    listener.name.clone_from(&name);
    let mut accepted = socket_state(2, 3, 1, SocketState::Established);
    accepted.name.clone_from(&name);
    let client = socket_state(3, 2, 1, SocketState::Established);
    let (_, open) = make(&[client, accepted, listener]).expect("a connection");
    assert_eq!(name_of(&open[&FileId(1)]), name);
    assert_eq!(name_of(&open[&FileId(2)]), name);
    assert_eq!(name_of(&open[&FileId(3)]), b"");
    nix::unistd::write(&open[&FileId(3)], b"hi").expect("connected");
    let mut buffer = [0; 8];
    assert_eq!(nix::unistd::read(&open[&FileId(2)], &mut buffer), Ok(2));
}

#[test]
fn nodes_are_made_relative_and_taken_away_if_nothing_ever_ran() {
    let directory = tempfile_dir();
    let mut listener = socket_state(1, 0, 1, SocketState::Listening);
    listener.name = b"here.sock".to_vec();
    listener.name_dir = Some(directory.to_str().expect("text").to_owned());
    listener.node = Some((0o600, 0, 0));
    let node = directory.join("here.sock");
    // A stale one of an earlier life is replaced …
    drop(std::os::unix::net::UnixListener::bind(&node).expect("bound"));
    let (made, open) = make(std::slice::from_ref(&listener)).expect("a listener");
    assert_eq!(name_of(&open[&FileId(1)]), b"here.sock");
    assert_eq!(lstat(&node).expect("a node").st_mode & 0o7777, 0o600);
    // … a live one is not …
    assert!(matches!(
        make(std::slice::from_ref(&listener)),
        Err(Error::Bind { errno: Errno::EADDRINUSE, .. })
    ));
    drop((made, open));
    assert!(!node.exists(), "the node must be gone");
    // … and neither is a file that is no socket.
    std::fs::write(&node, "precious").expect("written");
    assert!(make(&[listener]).is_err());
    assert_eq!(std::fs::read_to_string(&node).expect("still there"), "precious");
    std::fs::remove_dir_all(directory).expect("cleaned up");
}

#[test]
fn datagrams_wait_for_a_named_socket() {
    let directory = tempfile_dir();
    let node = directory.join("log");
    let mut named = socket_state(1, 0, 2, SocketState::Closed);
    named.name = node.as_os_str().as_bytes().to_vec();
    named.queue = vec![Packet::plain(*b"first"), Packet::plain(*b"second")];
    let sender = socket_state(2, 1, 2, SocketState::Established);
    let (made, mut open) = make(&[sender, named]).expect("sockets");
    let named = UnixDatagram::from(open.remove(&FileId(1)).expect("made"));
    let sender = UnixDatagram::from(open.remove(&FileId(2)).expect("made"));
    sender.send(b"third").expect("connected");
    let mut buffer = [0; 16];
    for expected in ["first", "second", "third"] {
        let got = named.recv(&mut buffer).expect("a datagram");
        assert_eq!(&buffer[..got], expected.as_bytes());
    }
    drop(made);
    std::fs::remove_dir_all(directory).expect("cleaned up");
}

#[test]
fn ends_that_contradict_each_other_are_refused() {
    let lonely = socket_state(1, 7, 1, SocketState::Established);
    assert!(matches!(
        make(&[lonely]),
        Err(Error::BadCheckpoint(BadCheckpoint::UnixPeer { inode: 1, peer: 7 }))
    ));
}

fn tempfile_dir() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("qmig-unix-{}-{count}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a directory");
    path
}
