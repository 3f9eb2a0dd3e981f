//! What networks of Podman's have given to a container, so that it gets the same elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The file of a bundle in which Podman finds it when it restores one.
pub const NETWORK_STATUS: &str = "network.status";

/// How Podman tells it of a container in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Connected {
    #[serde(rename = "IPAddress")]
    address: String,
    #[serde(rename = "IPPrefixLen")]
    prefix: u8,
    #[serde(rename = "GlobalIPv6Address")]
    address6: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    prefix6: u8,
    #[serde(rename = "MacAddress")]
    mac: String,
}

/// How Podman wants to read it, by network.
type Statuses = BTreeMap<String, Status>;

#[derive(Deserialize, Serialize)]
struct Status {
    /// By name.
    interfaces: BTreeMap<String, Interface>,
}

#[derive(Deserialize, Serialize)]
struct Interface {
    mac_address: String,
    subnets: Vec<Subnet>,
}

#[derive(Deserialize, Serialize)]
struct Subnet {
    ipnet: String,
}

impl Connected {
    /// The address on the link of its interface there, if it is an Ethernet.
    pub fn link_address(&self) -> Option<[u8; 6]> {
        let octets = self.mac.split(':').map(|octet| u8::from_str_radix(octet, 16));
        octets.collect::<Result<Vec<_>, _>>().ok()?.try_into().ok()
    }

    fn subnets(&self) -> Vec<Subnet> {
        let all = [(&self.address, self.prefix), (&self.address6, self.prefix6)];
        let given = all.into_iter().filter(|(address, _)| !address.is_empty());
        given.map(|(address, prefix)| Subnet { ipnet: format!("{address}/{prefix}") }).collect()
    }
}

/// The [`NETWORK_STATUS`] of a container in these networks: of each its name, what the interface there
/// is called, and what the network gave.
pub fn status<'a>(networks: impl IntoIterator<Item = (&'a str, String, &'a Connected)>) -> Vec<u8> {
    let status = |(network, interface, connected): (&str, String, &Connected)| {
        let mac_address = connected.mac.clone();
        let of_it = Interface { mac_address, subnets: connected.subnets() };
        (network.to_owned(), Status { interfaces: BTreeMap::from([(interface, of_it)]) })
    };
    let all: Statuses = networks.into_iter().map(status).collect();
    serde_json::to_vec(&all).unwrap_or_default()
}

/// One that came, with nothing in it but what is known; `None` if it is none.
pub(crate) fn checked(came: &[u8]) -> Option<Vec<u8>> {
    let status: Statuses = serde_json::from_slice(came).ok()?;
    serde_json::to_vec(&status).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_podman_tells_becomes_what_it_reads() {
        let told = r#"{"Gateway": "10.88.0.1", "IPAddress": "10.88.0.3", "IPPrefixLen": 16, "GlobalIPv6Address": "", "MacAddress": "a2:bd:7b:6a:19:1b"}"#;
        let first: Connected = serde_json::from_str(told).expect("told");
        assert_eq!(first.link_address(), Some([0xa2, 0xbd, 0x7b, 0x6a, 0x19, 0x1b]));
        let told = r#"{"IPAddress": "10.89.0.2", "IPPrefixLen": 24, "GlobalIPv6Address": "fd00::2", "GlobalIPv6PrefixLen": 64, "MacAddress": "0"}"#;
        let other: Connected = serde_json::from_str(told).expect("told");
        assert_eq!(other.link_address(), None);
        let networks = [("podman", "eth0".to_owned(), &first), ("back", "eth1".to_owned(), &other)];
        let status = status(networks);
        let text = concat!(
            r#"{"back":{"interfaces":{"eth1":{"mac_address":"0","#,
            r#""subnets":[{"ipnet":"10.89.0.2/24"},{"ipnet":"fd00::2/64"}]}}},"#,
            r#""podman":{"interfaces":{"eth0":{"mac_address":"a2:bd:7b:6a:19:1b","#,
            r#""subnets":[{"ipnet":"10.88.0.3/16"}]}}}}"#
        );
        assert_eq!(String::from_utf8_lossy(&status), text);
        assert_eq!(checked(&status).as_deref(), Some(text.as_bytes()));
        let more = text.replace("\"subnets\"", "\"dns\":[1],\"subnets\"");
        assert_eq!(checked(more.as_bytes()).as_deref(), Some(text.as_bytes()));
        assert_eq!(checked(b"{\"podman\": 1}"), None);
    }
}
