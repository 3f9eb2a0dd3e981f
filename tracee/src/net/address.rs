//! Addresses of interfaces: taken, told to the neighbours, and given up.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::str::FromStr;

use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, bind, sendto,
    socket,
};

use super::netlink::{ACK, CREATE, EXCLUSIVE, Netlink, REQUEST, Writer};

/// An address with its network, at an interface: `192.0.2.5/24@eth0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAddress {
    address: IpAddr,
    prefix: u8,
    device: String,
}

impl FromStr for HostAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = "an address is given as ADDR/LEN@DEV, such as 192.0.2.5/24@eth0";
        let (address, device) = text.split_once('@').ok_or(form)?;
        let (address, prefix) = address.split_once('/').ok_or(form)?;
        let address: IpAddr = address.parse().map_err(|_| form)?;
        let prefix: u8 = prefix.parse().map_err(|_| form)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix > most || address.is_unspecified() || !(1..16).contains(&device.len()) {
            return Err(form);
        }
        Ok(Self { address, prefix, device: device.to_owned() })
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.address, self.prefix, self.device)
    }
}

impl HostAddress {
    /// The address alone.
    pub fn ip(&self) -> IpAddr {
        self.address
    }

    /// Is there such an interface?
    pub fn has_device(&self) -> bool {
        if_nametoindex(self.device.as_str()).is_ok()
    }

    /// Adds it to its interface. False if it was there already.
    pub fn add(&self) -> io::Result<bool> {
        match self.change(RTM_NEWADDR, CREATE | EXCLUSIVE) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes it from its interface. False if it was not there.
    pub fn remove(&self) -> io::Result<bool> {
        match self.change(RTM_DELADDR, 0) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Tells everybody on the link that the address is here now: a gratuitous ARP (RFC 5227), or an
    /// unsolicited neighbour advertisement (RFC 4861).
    pub fn announce(&self) -> io::Result<()> {
        let Some((link, own)) = self.hardware()? else { return Ok(()) }; // no neighbours there
        match self.address {
            IpAddr::V4(address) => announce_v4(&link, own, address.octets()),
            IpAddr::V6(address) => announce_v6(if_nametoindex(self.device.as_str())?, own, address),
        }
    }

    fn change(&self, kind: u16, flags: u16) -> io::Result<()> {
        let octets = match self.address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let index = if_nametoindex(self.device.as_str())?;
        let mut writer = Writer::default();
        writer.message(kind, REQUEST | ACK | flags, 1, |body| {
            let family = if self.address.is_ipv4() { INET } else { INET6 };
            // The address was in use a moment ago: nobody needs to be asked for it.
            body.raw(&[family, self.prefix, NO_DETECTION, 0]).raw(&index.to_ne_bytes());
            body.attribute(IFA_LOCAL, &octets).attribute(IFA_ADDRESS, &octets);
        });
        Netlink::open(SockProtocol::NetlinkRoute)?.ask(&writer, 1)
    }

    /// The interface with its own address on the link, if it is an Ethernet.
    fn hardware(&self) -> io::Result<Option<(LinkAddr, [u8; 6])>> {
        let links = getifaddrs()?.filter(|link| link.interface_name == self.device);
        let mut own = links.filter_map(|link| {
            let link = *link.address?.as_link_addr()?;
            Some((link, link.addr()?))
        });
        Ok(own.next().filter(|(_, address)| *address != [0; 6]))
    }
}

fn announce_v4(link: &LinkAddr, own: [u8; 6], address: [u8; 4]) -> io::Result<()> {
    const ARP: u16 = 0x0806;
    // A raw frame: everybody, from us, ARP; then a request for our own address.
    let mut frame = [0xff; 6].to_vec();
    frame.extend_from_slice(&own);
    frame.extend_from_slice(&ARP.to_be_bytes());
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&own);
    frame.extend_from_slice(&address);
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&address);
    let packets = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    sendto(packets.as_raw_fd(), &frame, link, MsgFlags::empty())?;
    Ok(())
}

fn announce_v6(index: u32, own: [u8; 6], address: Ipv6Addr) -> io::Result<()> {
    const ADVERTISEMENT: u8 = 136;
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_ADDRESS: u8 = 2;
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend_from_slice(&address.octets());
    message.extend_from_slice(&[TARGET_LINK_ADDRESS, 1]);
    message.extend_from_slice(&own);
    let kind = SockType::Raw;
    let icmp = socket(AddressFamily::Inet6, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
    bind(icmp.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, index)))?;
    let (level, hops) = (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS);
    crate::host::setsockopt(icmp.as_fd(), level, hops, &255_u32.to_ne_bytes())?;
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let all = SockaddrIn6::from(SocketAddrV6::new(all, 0, 0, index));
    sendto(icmp.as_raw_fd(), &message, &all, MsgFlags::empty())?;
    Ok(())
}

// linux/rtnetlink.h, linux/if_addr.h.
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// IFA_F_NODAD.
const NO_DETECTION: u8 = 2;
const INET: u8 = 2;
const INET6: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_what_ip_shows() {
        for text in ["192.0.2.5/24@eth0", "2001:db8::5/64@lo"] {
            let parsed: HostAddress = text.parse().expect("an address");
            assert_eq!(parsed.to_string(), text);
        }
        for text in [
            "192.0.2.5",
            "192.0.2.5/24",
            "192.0.2.5/33@eth0",
            "x/1@eth0",
            "::1/64@",
            "0.0.0.0/0@lo",
        ] {
            assert!(text.parse::<HostAddress>().is_err(), "{text}");
        }
    }
}
