//! What a network of Podman's has given to a container, so that it gets the same elsewhere.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The file of a bundle in which Podman finds it when it restores one.
pub const NETWORK_STATUS: &str = "network.status";
/// What Podman calls the interface to the only network of a container.
const INTERFACE: &str = "eth0";

/// How Podman tells it of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Connected {
    #[serde(rename = "IPAddress")]
    address: String,
    #[serde(rename = "IPPrefixLen")]
    prefix: u8,
    #[serde(rename = "MacAddress")]
    mac: String,
}

/// How Podman wants to read it.
#[derive(Deserialize, Serialize)]
struct Status {
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

/// The [`NETWORK_STATUS`] of a container in this network.
pub fn status(network: &str, connected: &Connected) -> Vec<u8> {
    let subnet = Subnet { ipnet: format!("{}/{}", connected.address, connected.prefix) };
    let interface = Interface { mac_address: connected.mac.clone(), subnets: vec![subnet] };
    let interfaces = BTreeMap::from([(INTERFACE.to_owned(), interface)]);
    serde_json::to_vec(&BTreeMap::from([(network, Status { interfaces })])).unwrap_or_default()
}

/// One that came, with nothing in it but what is known; `None` if it is none.
pub(crate) fn checked(came: &[u8]) -> Option<Vec<u8>> {
    let status: BTreeMap<String, Status> = serde_json::from_slice(came).ok()?;
    serde_json::to_vec(&status).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_podman_tells_becomes_what_it_reads() {
        let told = r#"{"Gateway": "10.88.0.1", "IPAddress": "10.88.0.3", "IPPrefixLen": 16, "MacAddress": "a2:bd:7b:6a:19:1b"}"#;
        let connected: Connected = serde_json::from_str(told).expect("told");
        let status = status("podman", &connected);
        let text = r#"{"podman":{"interfaces":{"eth0":{"mac_address":"a2:bd:7b:6a:19:1b","subnets":[{"ipnet":"10.88.0.3/16"}]}}}}"#;
        assert_eq!(String::from_utf8_lossy(&status), text);
        assert_eq!(checked(&status).as_deref(), Some(text.as_bytes()));
        let more = text.replace("\"subnets\"", "\"dns\":[1],\"subnets\"");
        assert_eq!(checked(more.as_bytes()).as_deref(), Some(text.as_bytes()));
        assert_eq!(checked(b"{\"podman\": 1}"), None);
    }
}
