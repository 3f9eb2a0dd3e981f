//! A lock on connections: packets of theirs are dropped, both ways, by nftables.
//!
//! The table belongs to the netlink socket that made it (NFT_TABLE_F_OWNER, Linux 5.12): nobody else
//! can change it, and the kernel removes it with the socket, whatever becomes of its process. What
//! is dropped is sent again by whoever sent it, as anything else that a network loses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;
use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, APPEND, CREATE, EXCLUSIVE, Netlink, REQUEST, Writer};

/// SO_MARK of packets that pass the lock: those that whoever holds it makes. CRIU's own number.
pub const PASSES: u32 = 0xC114;

/// Both ends of a connection, as the host at one of them sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FourTuple {
    /// This host's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

impl FourTuple {
    /// The addresses as packets carry them: an IPv4 address in an IPv6 one is an IPv4 address.
    fn ips(&self) -> (IpAddr, IpAddr) {
        (self.local.ip().to_canonical(), self.remote.ip().to_canonical())
    }

    /// The key of a set: local address, remote address, local port, remote port, each padded to
    /// whole registers.
    fn key(&self) -> Vec<u8> {
        let octets = |ip| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let port = |address: SocketAddr| {
            let [high, low] = address.port().to_be_bytes();
            [high, low, 0, 0]
        };
        let (local, remote) = self.ips();
        let mut key = octets(local);
        key.extend(octets(remote));
        key.extend(port(self.local));
        key.extend(port(self.remote));
        key
    }
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
#[error("hold back packets: nftables cannot {act}: {source}")]
pub struct LockError {
    act: &'static str,
    source: io::Error,
}

impl LockError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self.source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => "run qmig with CAP_NET_ADMIN in this network",
            _ => {
                "load the kernel module nf_tables (modprobe nf_tables); it takes Linux 5.12 with \
                 CONFIG_NF_TABLES_INET"
            }
        }
    }
}

/// Holds packets back as long as it lives.
#[derive(Debug)]
#[must_use = "dropped, packets pass again"]
pub struct NetworkLock {
    netlink: Netlink,
    table: String,
    sequence: u32,
}

impl NetworkLock {
    /// A lock that holds back nothing yet.
    pub fn new() -> Result<Self, LockError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let failed = |source| LockError { act: "be reached", source };
        let netlink = Netlink::open(SockProtocol::NetlinkNetFilter).map_err(failed)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let table = format!("qmig-{}-{number}", std::process::id());
        let mut lock = Self { netlink, table, sequence: 0 };
        lock.batch("make a table that ends with its owner", |batch| {
            batch.add(NEW_TABLE, EXCLUSIVE, |body, table| {
                body.text(1, table).number(2, OWNER);
            });
            for way in [Way::In, Way::Out] {
                batch.add(NEW_CHAIN, EXCLUSIVE, |body, table| {
                    body.text(1, table).text(3, way.chain()).text(7, "filter").number(5, ACCEPT);
                    body.nested(4, |hook| {
                        hook.number(1, way.hook()).number(2, FIRST.cast_unsigned());
                    });
                });
            }
            batch.rule(Way::In, |rule| {
                rule.meta(MARK).equals(&PASSES.to_ne_bytes()).verdict(ACCEPT);
            });
        })?;
        Ok(lock)
    }

    /// Holds back every packet of these connections, in both directions.
    pub fn hold(&mut self, connections: &[FourTuple]) -> Result<(), LockError> {
        let of = |v4: bool| connections.iter().filter(move |one| one.local_is_v4() == v4);
        for (family, name) in [(Family::V4, "v4"), (Family::V6, "v6")] {
            let mut keys: Vec<Vec<u8>> =
                of(family == Family::V4).map(|connection| connection.key()).collect();
            keys.sort_unstable();
            keys.dedup();
            if keys.is_empty() {
                continue;
            }
            self.batch("hold a connection back", |batch| {
                let id = family.protocol().into();
                batch.add(NEW_SET, EXCLUSIVE, |body, table| {
                    body.text(1, table).text(2, name).number(3, 0).number(4, 0);
                    body.number(5, family.key_length()).number(10, id);
                    body.nested(9, |description| {
                        description.number(1, u32::try_from(keys.len()).unwrap_or(u32::MAX));
                    });
                });
                for some in keys.chunks(KEYS_A_MESSAGE) {
                    batch.add(NEW_ELEMENTS, 0, |body, table| {
                        body.text(1, table).text(2, name).number(4, id);
                        body.nested(3, |list| {
                            for key in some {
                                list.nested(1, |element| {
                                    element.nested(1, |data| {
                                        data.attribute(1, key);
                                    });
                                });
                            }
                        });
                    });
                }
                for way in [Way::In, Way::Out] {
                    batch.rule(way, |rule| {
                        rule.tcp().family(family).connection(way, family);
                        rule.lookup(name, id).verdict(DROP);
                    });
                }
            })?;
        }
        Ok(())
    }

    /// Holds back the first packet of every new connection to these listening addresses, so that
    /// whoever connects tries again a second later.
    pub fn hold_new(&mut self, listeners: &[SocketAddr]) -> Result<(), LockError> {
        self.batch("hold new connections back", |batch| {
            for listener in listeners {
                batch.rule(Way::In, |rule| {
                    rule.tcp();
                    // A wildcard may be one of both families.
                    match listener.ip().to_canonical() {
                        ip if ip.is_unspecified() => {}
                        IpAddr::V4(ip) => {
                            rule.family(Family::V4).payload(NETWORK, 16, 4, FIRST_REGISTER);
                            rule.equals(&ip.octets());
                        }
                        IpAddr::V6(ip) => {
                            rule.family(Family::V6).payload(NETWORK, 24, 16, FIRST_REGISTER);
                            rule.equals(&ip.octets());
                        }
                    }
                    rule.payload(TRANSPORT, 2, 2, FIRST_REGISTER);
                    rule.equals(&listener.port().to_be_bytes());
                    // SYN without ACK.
                    rule.payload(TRANSPORT, 13, 1, FIRST_REGISTER).and(0x12).equals(&[0x02]);
                    rule.verdict(DROP);
                });
            }
        })
    }

    /// Lets everything pass at once. (Taking the table away takes the kernel some 15 ms, which
    /// nobody has to wait for.)
    pub fn lift(mut self) {
        let emptied = self.batch("let packets pass", |batch| {
            batch.delete(DELETE_RULES, |body, table| {
                body.text(1, table);
            });
        });
        if emptied.is_ok() {
            // If there is no thread to be had, it is done here.
            let _ = std::thread::Builder::new().spawn(move || drop(self));
        }
    }

    fn batch(
        &mut self,
        act: &'static str,
        fill: impl FnOnce(&mut Batch<'_>),
    ) -> Result<(), LockError> {
        let mut batch =
            Batch { table: &self.table, writer: Writer::default(), sequence: self.sequence };
        batch.edge(BATCH_BEGIN);
        fill(&mut batch);
        batch.acknowledged(NEW_TABLE);
        let last = batch.sequence;
        batch.edge(BATCH_END);
        let Batch { writer, sequence, .. } = batch;
        self.sequence = sequence;
        self.netlink.ask(&writer, last).map_err(|source| LockError { act, source })
    }
}

impl FourTuple {
    fn local_is_v4(&self) -> bool {
        self.ips().0.is_ipv4()
    }
}

// linux/netfilter/nf_tables.h and nfnetlink.h.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// NFNL_SUBSYS_NFTABLES.
const NFTABLES: u8 = 10;
const NEW_TABLE: u16 = 0x0a00;
const NEW_CHAIN: u16 = 0x0a03;
const NEW_RULE: u16 = 0x0a06;
const DELETE_RULES: u16 = 0x0a08;
const NEW_SET: u16 = 0x0a09;
const NEW_ELEMENTS: u16 = 0x0a0c;
/// NFPROTO_INET: both families.
const INET: u8 = 1;
const OWNER: u32 = 2;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// Before connection tracking and everything that people configure.
const FIRST: i32 = -500;
const MARK: u32 = 3;
const NFPROTO: u32 = 15;
const L4PROTO: u32 = 16;
/// Bases of payloads.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// NFT_REG32_00: registers of four bytes count from here.
const FIRST_REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
/// Elements in one attribute, which is at most 64 KiB: 40 bytes of key and three heads.
const KEYS_A_MESSAGE: usize = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// NFPROTO_IPV4, NFPROTO_IPV6.
    fn protocol(self) -> u8 {
        if self == Self::V4 { 2 } else { 10 }
    }

    fn key_length(self) -> u32 {
        if self == Self::V4 { 16 } else { 40 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Way {
    fn chain(self) -> &'static str {
        if self == Self::In { "in" } else { "out" }
    }

    /// NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT.
    fn hook(self) -> u32 {
        if self == Self::In { 1 } else { 3 }
    }
}

/// Messages that take effect together or not at all.
struct Batch<'a> {
    table: &'a str,
    writer: Writer,
    sequence: u32,
}

impl Batch<'_> {
    fn edge(&mut self, kind: u16) {
        self.sequence += 1;
        self.writer.message(kind, REQUEST, self.sequence, |body| {
            body.raw(&[0, 0, 0, NFTABLES]);
        });
    }

    fn add(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer, &str)) {
        self.message(kind, CREATE | flags, body);
    }

    fn delete(&mut self, kind: u16, body: impl FnOnce(&mut Writer, &str)) {
        self.message(kind, 0, body);
    }

    fn message(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer, &str)) {
        self.sequence += 1;
        let table = self.table;
        self.writer.message(kind, REQUEST | flags, self.sequence, |writer| {
            writer.raw(&[INET, 0, 0, 0]);
            body(writer, table);
        });
    }

    /// The table once more, as it is: the answer to this says that all is done.
    fn acknowledged(&mut self, kind: u16) {
        self.add(kind, ACK, |body, table| {
            body.text(1, table).number(2, OWNER);
        });
    }

    fn rule(&mut self, way: Way, fill: impl FnOnce(&mut Rule<'_>)) {
        self.add(NEW_RULE, APPEND, |body, table| {
            body.text(1, table).text(2, way.chain());
            body.nested(4, |list| fill(&mut Rule(list)));
        });
    }
}

/// The expressions of a rule, in the order in which they are evaluated.
struct Rule<'a>(&'a mut Writer);

impl Rule<'_> {
    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Writer)) -> &mut Self {
        self.0.nested(1, |expression| {
            expression.text(1, name).nested(2, data);
        });
        self
    }

    fn meta(&mut self, key: u32) -> &mut Self {
        self.expression("meta", |data| {
            data.number(1, FIRST_REGISTER).number(2, key);
        })
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32, register: u32) -> &mut Self {
        self.expression("payload", |data| {
            data.number(1, register).number(2, base).number(3, offset).number(4, length);
        })
    }

    /// The byte loaded last, masked.
    fn and(&mut self, mask: u8) -> &mut Self {
        self.expression("bitwise", |data| {
            data.number(1, FIRST_REGISTER).number(2, FIRST_REGISTER).number(3, 1);
            for (kind, byte) in [(4, mask), (5, 0)] {
                data.nested(kind, |value| {
                    value.attribute(1, &[byte]);
                });
            }
        })
    }

    /// Goes on only if what was loaded last is this.
    fn equals(&mut self, bytes: &[u8]) -> &mut Self {
        self.expression("cmp", |data| {
            data.number(1, FIRST_REGISTER).number(2, 0).nested(3, |value| {
                value.attribute(1, bytes);
            });
        })
    }

    fn tcp(&mut self) -> &mut Self {
        const TCP: u8 = 6;
        self.meta(L4PROTO).equals(&[TCP])
    }

    fn family(&mut self, family: Family) -> &mut Self {
        self.meta(NFPROTO).equals(&[family.protocol()])
    }

    /// Loads what [`FourTuple::key`] is made of.
    fn connection(&mut self, way: Way, family: Family) -> &mut Self {
        let (source, destination, length) = match family {
            Family::V4 => (12, 16, 4),
            Family::V6 => (8, 24, 16),
        };
        let ((local, local_port), (remote, remote_port)) = match way {
            Way::In => ((destination, 2), (source, 0)),
            Way::Out => ((source, 0), (destination, 2)),
        };
        let words = length / 4;
        self.payload(NETWORK, local, length, FIRST_REGISTER)
            .payload(NETWORK, remote, length, FIRST_REGISTER + words)
            .payload(TRANSPORT, local_port, 2, FIRST_REGISTER + 2 * words)
            .payload(TRANSPORT, remote_port, 2, FIRST_REGISTER + 2 * words + 1)
    }

    /// Goes on only if what was loaded is in the set.
    fn lookup(&mut self, set: &str, id: u32) -> &mut Self {
        self.expression("lookup", |data| {
            data.text(1, set).number(2, FIRST_REGISTER).number(4, id);
        })
    }

    fn verdict(&mut self, code: u32) -> &mut Self {
        self.expression("immediate", |data| {
            data.number(1, VERDICT_REGISTER).nested(2, |value| {
                value.nested(2, |verdict| {
                    verdict.number(1, code);
                });
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    fn pair(address: &str) -> (TcpListener, TcpStream, TcpStream) {
        let listener = TcpListener::bind(address).expect("bind");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (far, _) = listener.accept().expect("accept");
        far.set_read_timeout(Some(SHORT)).expect("a timeout");
        (listener, near, far)
    }

    fn ends_of(near: &TcpStream) -> FourTuple {
        let (local, remote) = (near.local_addr().expect("bound"), near.peer_addr().expect("peer"));
        FourTuple { local, remote }
    }

    /// Only where the test may: root in a network namespace, or on a host.
    fn lock() -> Option<NetworkLock> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: a network lock takes root");
            return None;
        }
        Some(NetworkLock::new().unwrap_or_else(|error| panic!("{error}: {}", error.hint())))
    }

    #[test]
    fn a_locked_connection_stands_still_and_goes_on() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Some(mut lock) = lock() else { return };
            let (_listener, mut near, mut far) = pair(address);
            let (_other_listener, mut other_near, mut other_far) = pair(address);
            lock.hold(&[ends_of(&near), ends_of(&near)]).expect("held");
            near.write_all(b"x").expect("into the send queue");
            let mut byte = [0];
            let error = far.read(&mut byte).expect_err("nothing comes");
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
            other_near.write_all(b"y").expect("sent");
            other_far.set_read_timeout(None).expect("no timeout");
            other_far.read_exact(&mut byte).expect("others pass");
            match address {
                "127.0.0.1:0" => drop(lock),
                _ => lock.lift(),
            }
            far.set_read_timeout(None).expect("no timeout");
            far.read_exact(&mut byte).expect("sent again");
            assert_eq!(&byte, b"x");
        }
    }

    #[test]
    fn nobody_connects_to_a_locked_listener() {
        let Some(mut lock) = lock() else { return };
        for (bound, knock) in [("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "::1")] {
            let listener = TcpListener::bind(bound).expect("bind");
            let address = listener.local_addr().expect("bound");
            let door = SocketAddr::new(knock.parse().expect("an address"), address.port());
            TcpStream::connect_timeout(&door, Duration::from_secs(5)).expect("open");
            lock.hold_new(&[address]).expect("held");
            TcpStream::connect_timeout(&door, SHORT).expect_err("shut");
        }
    }

    #[test]
    fn thousands_of_connections_are_one_lock() {
        let Some(mut lock) = lock() else { return };
        let local: SocketAddr = "192.0.2.1:80".parse().expect("an address");
        let of = |port: u16| FourTuple { local, remote: ([192, 0, 2, 2], port).into() };
        let many: Vec<_> = (1..=5000).map(of).collect();
        lock.hold(&many).expect("held");
    }
}
