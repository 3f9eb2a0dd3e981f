//! The address at which clients on a third host find a server, which goes along with it: qmig takes it
//! along by itself; for a stock CRIU, whoever moves a server does that.

use std::os::unix::fs::PermissionsExt as _;

use crate::criu::Criu;
use crate::lab::{Lab, Side, ip};
use crate::migration::Migration;
use crate::{LabError, Result};

/// What clients connect to.
pub(super) const ADDRESS: &str = "10.77.0.100";
const AT: [&str; 3] = ["10.77.0.100/32", "dev", "eth0"];
/// The same for qmig.
const TAKEN: &str = "10.77.0.100/32@eth0";

/// The address is on the source.
pub(super) fn begin(lab: &Lab) -> Result<()> {
    ip(lab.src(), &[&["addr", "add"][..], &AT].concat())
}

/// Connections and the address go along.
pub(super) fn by_qmig(migration: Migration<'_>) -> Migration<'_> {
    let migration = migration.dump_arg("--tcp-established");
    migration
        .dump_arg(format!("--release-ip={TAKEN}"))
        .restore_arg(format!("--takeover-ip={TAKEN}"))
}

/// The same around a CRIU: from the moment before it freezes the server until that runs again, nobody
/// has the address as far as clients are concerned, and what they send is lost, not answered with an end.
pub(super) fn by_criu(lab: &Lab, criu: Criu) -> Result<Criu> {
    // Clients ask nobody where it is; they are told.
    point_clients(lab, Side::Source)?;
    let path = lab.shared().join("lock");
    let script = format!(
        "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" != pre-dump ] || exec ip addr del {}\n",
        AT.join(" ")
    );
    std::fs::write(&path, script).map_err(LabError::file("write", &path))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .map_err(LabError::file("make executable", &path))?;
    let criu = criu.arg("--tcp-established").arg("--network-lock=skip");
    Ok(criu.arg("--action-script").arg(&path.to_string_lossy()))
}

/// The server is about to be restored: its sockets need the address.
pub(super) fn arrive(lab: &Lab) -> Result<()> {
    ip(lab.dst(), &[&["addr", "add"][..], &AT].concat())
}

/// It runs there.
pub(super) fn point_clients(lab: &Lab, side: Side) -> Result<()> {
    let Some(client) = lab.client() else { return Ok(()) };
    let to = ["neigh", "replace", ADDRESS, "lladdr", side.mac(), "dev", "eth0", "nud", "permanent"];
    ip(client, &to)
}
