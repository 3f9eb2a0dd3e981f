//! One-time tickets: everything a source needs to find, believe and convince one destination.
//!
//! The text is `qmig1` and lower-case base32 of:
//!
//! | bytes | field |
//! |---|---|
//! | 32 | fingerprint of the destination's key |
//! | 16 | seed of the one-time client key |
//! | 8 | when it expires, in seconds since 1970 |
//! | 1 | count of addresses, then each: 4 or 6 (1), the address (4 or 16), the port (2) |
//! | 4 | the first bytes of SHA-256 over all before, so that a typo is told from a lie |
//!
//! Whoever reads the ticket may use it: it is a secret until it is used or has expired.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE32_NOPAD;
use ring::digest;

use super::close::CloseCode;
use super::identity::{Identity, IdentityError, KeyFingerprint, random};
use crate::wire::SessionId;

const PREFIX: &str = "qmig";
const VERSION: char = '1';
const CHECKSUM_BYTES: usize = 4;
const MAX_ADDRESSES: usize = 16;
const MAX_TEXT: usize = 1024;
/// Tickets one destination remembers, used and expired ones included.
const MAX_TICKETS: usize = 1024;

/// A ticket. Its text is a secret; `Display` shows it, `Debug` does not.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    destination: KeyFingerprint,
    seed: [u8; 16],
    expires: u64,
    addresses: Vec<SocketAddr>,
}

/// Not a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It starts with something else.
    #[error("this is no ticket: a ticket starts with qmig1")]
    NotATicket,
    /// It starts right, but the version is another.
    #[error(
        "this ticket is of version {0}, this qmig knows version 1; install the same release on both hosts"
    )]
    OtherVersion(char),
    /// A letter is wrong, or the end is missing.
    #[error("this ticket was cut or mistyped: its checksum does not fit")]
    Mistyped,
}

impl Ticket {
    pub(super) fn issue(
        destination: KeyFingerprint,
        expires: SystemTime,
    ) -> Result<Self, IdentityError> {
        let since = expires.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs() + u64::from(since.subsec_nanos() > 0);
        Ok(Self { destination, seed: random()?, expires: seconds, addresses: Vec::new() })
    }

    /// The same ticket, which also says where to go. At most 16 addresses are kept.
    #[must_use]
    pub fn with_addresses(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.addresses.extend(addresses);
        self.addresses.truncate(MAX_ADDRESSES);
        self
    }

    /// The key the destination must prove.
    pub const fn destination(&self) -> KeyFingerprint {
        self.destination
    }

    /// When it expires, by the destination's clock. Only the destination judges that.
    pub fn expires(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.expires)).unwrap_or(UNIX_EPOCH)
    }

    /// Where the destination is, if the ticket says so.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The one-time identity of the source.
    pub(super) fn client(&self) -> Result<Identity, IdentityError> {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(b"qmig ticket 1 client key\0");
        context.update(&self.seed);
        let seed = context.finish();
        Identity::from_seed(seed.as_ref().try_into().expect("SHA-256 is 32 bytes"))
    }

    fn payload(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(self.destination.0);
        bytes.extend(self.seed);
        bytes.extend(self.expires.to_be_bytes());
        bytes.push(u8::try_from(self.addresses.len()).expect("addresses are bounded"));
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend(ip.octets());
                }
            }
            bytes.extend(address.port().to_be_bytes());
        }
        bytes
    }

    fn from_payload(mut bytes: &[u8]) -> Option<Self> {
        let destination = KeyFingerprint(take(&mut bytes)?);
        let seed = take(&mut bytes)?;
        let expires = u64::from_be_bytes(take(&mut bytes)?);
        let [count] = take(&mut bytes)?;
        if usize::from(count) > MAX_ADDRESSES {
            return None;
        }
        let mut addresses = Vec::new();
        for _ in 0..count {
            let ip = match take(&mut bytes)? {
                [4] => IpAddr::V4(Ipv4Addr::from(take::<4>(&mut bytes)?)),
                [6] => IpAddr::V6(Ipv6Addr::from(take::<16>(&mut bytes)?)),
                _ => return None,
            };
            addresses.push(SocketAddr::new(ip, u16::from_be_bytes(take(&mut bytes)?)));
        }
        bytes.is_empty().then_some(Self { destination, seed, expires, addresses })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = digest::digest(&digest::SHA256, payload);
    *digest.as_ref().first_chunk().expect("SHA-256 is longer")
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.payload();
        bytes.extend(checksum(&bytes));
        let text = BASE32_NOPAD.encode(&bytes).to_ascii_lowercase();
        write!(f, "{PREFIX}{VERSION}{text}")
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket(for {})", self.destination)
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Spaces around it are forgiven, and capitals.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        if text.len() > MAX_TEXT || !text.is_ascii() {
            return Err(TicketError::NotATicket);
        }
        let text = text.to_ascii_lowercase();
        let rest = text.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        match rest.chars().next() {
            Some(VERSION) => {}
            Some(other @ '0'..='9') => return Err(TicketError::OtherVersion(other)),
            _ => return Err(TicketError::NotATicket),
        }
        let bytes = BASE32_NOPAD
            .decode(rest[1..].to_ascii_uppercase().as_bytes())
            .map_err(|_| TicketError::Mistyped)?;
        let (payload, sum) =
            bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Mistyped)?;
        if checksum(payload) != *sum {
            return Err(TicketError::Mistyped);
        }
        Self::from_payload(payload).ok_or(TicketError::Mistyped)
    }
}

/// The tickets a destination has issued, and what became of them.
#[derive(Debug, Default)]
pub(super) struct TicketBook {
    entries: Mutex<HashMap<KeyFingerprint, Entry>>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    expires: SystemTime,
    used_by: Option<SessionId>,
}

impl Entry {
    fn is_good(self, now: SystemTime) -> Result<(), CloseCode> {
        match self.used_by {
            Some(_) => Err(CloseCode::TICKET_USED),
            None if now >= self.expires => Err(CloseCode::TICKET_EXPIRED),
            None => Ok(()),
        }
    }
}

impl TicketBook {
    fn entries(&self) -> MutexGuard<'_, HashMap<KeyFingerprint, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a ticket by its client key. The one that expires first is forgotten when there
    /// are too many.
    pub(super) fn add(&self, client: KeyFingerprint, expires: SystemTime) {
        let mut entries = self.entries();
        if entries.len() >= MAX_TICKETS {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.expires).map(|(key, _)| *key);
            oldest.map(|key| entries.remove(&key));
        }
        entries.insert(client, Entry { expires, used_by: None });
    }

    /// True if a ticket with this key was issued, whatever became of it: its holder is
    /// authenticated and may be told.
    pub(super) fn knows(&self, client: KeyFingerprint) -> bool {
        self.entries().contains_key(&client)
    }

    /// Uses a ticket for a new session.
    pub(super) fn consume(
        &self,
        client: KeyFingerprint,
        session: SessionId,
        now: SystemTime,
    ) -> Result<(), CloseCode> {
        let mut entries = self.entries();
        let entry = entries.get_mut(&client).ok_or(CloseCode::UNKNOWN_KEY)?;
        entry.is_good(now)?;
        entry.used_by = Some(session);
        Ok(())
    }

    /// Whether a ticket could be used. It stays as it is.
    pub(super) fn is_good(&self, client: KeyFingerprint, now: SystemTime) -> Result<(), CloseCode> {
        self.entries().get(&client).ok_or(CloseCode::UNKNOWN_KEY)?.is_good(now)
    }

    /// Lets the session that used a ticket come back with it, expired or not.
    pub(super) fn resume(
        &self,
        client: KeyFingerprint,
        session: SessionId,
    ) -> Result<(), CloseCode> {
        match self.entries().get(&client) {
            None => Err(CloseCode::UNKNOWN_KEY),
            Some(entry) if entry.used_by == Some(session) => Ok(()),
            Some(_) => Err(CloseCode::UNKNOWN_SESSION),
        }
    }

    /// Makes the ticket of a session that came to nothing usable again.
    pub(super) fn renew(&self, session: SessionId, expires: SystemTime) -> bool {
        let mut entries = self.entries();
        let entry = entries.values_mut().find(|entry| entry.used_by == Some(session));
        entry.map(|entry| *entry = Entry { expires, used_by: None }).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        let expires = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let addresses = ["192.0.2.7:7000", "[2001:db8::1]:9"].map(|text| text.parse().expect("ok"));
        Ticket::issue(KeyFingerprint([3; 32]), expires).expect("issued").with_addresses(addresses)
    }

    #[test]
    fn a_ticket_is_one_line_and_comes_back() {
        let ticket = ticket();
        let text = ticket.to_string();
        assert!(text.starts_with("qmig1"));
        assert!(text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
        assert_eq!(text.parse(), Ok(ticket.clone()));
        assert_eq!(format!(" {}\n", text.to_uppercase()).parse(), Ok(ticket.clone()));
        assert!(!format!("{ticket:?}").contains(&text[60..80]), "the secret stays secret");
        let client = |ticket: &Ticket| ticket.client().expect("a key").fingerprint();
        assert_eq!(client(&ticket), client(&text.parse().expect("a ticket")));
    }

    #[test]
    fn every_single_typo_is_found() {
        let text = ticket().to_string();
        for at in 0..text.len() {
            for letter in ["a", "b", "7"] {
                let mut typo = text.clone();
                typo.replace_range(at..=at, letter);
                if typo != text {
                    assert!(typo.parse::<Ticket>().is_err(), "position {at}, {letter}");
                }
            }
            assert!(text[..at].parse::<Ticket>().is_err(), "cut at {at}");
        }
        assert_eq!("hello".parse::<Ticket>(), Err(TicketError::NotATicket));
        assert_eq!("qmig2abc".parse::<Ticket>(), Err(TicketError::OtherVersion('2')));
        assert_eq!(
            text.replacen("qmig1", "qmig1q", 1).parse::<Ticket>(),
            Err(TicketError::Mistyped)
        );
    }

    #[test]
    fn a_ticket_works_once_but_its_session_may_come_back() {
        let book = TicketBook::default();
        let (key, other) = (KeyFingerprint([1; 32]), KeyFingerprint([2; 32]));
        let (first, second) = (SessionId([1; 16]), SessionId([2; 16]));
        let now = SystemTime::now();
        let later = now + Duration::from_secs(60);
        book.add(key, later);
        assert_eq!(book.resume(key, first), Err(CloseCode::UNKNOWN_SESSION));
        assert_eq!(book.consume(other, first, now), Err(CloseCode::UNKNOWN_KEY));
        assert_eq!(book.consume(key, first, later), Err(CloseCode::TICKET_EXPIRED));
        assert_eq!(book.is_good(key, now), Ok(()));
        assert_eq!(book.consume(key, first, now), Ok(()));
        assert_eq!(book.is_good(key, now), Err(CloseCode::TICKET_USED));
        assert_eq!(book.consume(key, second, now), Err(CloseCode::TICKET_USED));
        assert_eq!(book.resume(key, second), Err(CloseCode::UNKNOWN_SESSION));
        assert_eq!(book.resume(key, first), Ok(()));
        assert!(book.renew(first, later));
        assert_eq!(book.consume(key, second, now), Ok(()));
    }

    #[test]
    fn the_book_is_bounded() {
        let book = TicketBook::default();
        let now = SystemTime::now();
        for number in 0..2 * MAX_TICKETS as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            book.add(KeyFingerprint(key), now + Duration::from_secs(number));
        }
        assert_eq!(book.entries().len(), MAX_TICKETS);
        assert!(!book.knows(KeyFingerprint([0; 32])), "the first to expire is forgotten first");
    }
}
