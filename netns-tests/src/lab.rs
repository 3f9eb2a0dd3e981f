//! The lab: two hosts and the link between them.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::host::{Host, Process};
use crate::init::InitCommand;
use crate::running::GLANCE;
use crate::{LabError, Result};

/// Where each host finds its own private directory, unless told otherwise.
const SCRATCH: &str = "/run/qmig-lab";

/// The name of the link in both hosts.
const LINK: &str = "eth0";
/// A hardware address that nobody has: what is sent there is lost, and no one is told.
const NOWHERE: &str = "02:77:00:00:00:ff";

/// Which host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where the process runs first.
    Source,
    /// Where it goes.
    Destination,
}

impl Side {
    /// Both, source first.
    pub const BOTH: [Self; 2] = [Self::Source, Self::Destination];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// `source` or `destination`, as qmig's events and faults spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    fn mac(self) -> &'static str {
        match self {
            Self::Source => "02:77:00:00:00:01",
            Self::Destination => "02:77:00:00:00:02",
        }
    }

    fn addresses(self) -> (Ipv4Addr, Ipv6Addr) {
        let last: u8 = match self {
            Self::Source => 1,
            Self::Destination => 2,
        };
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(last));
        (Ipv4Addr::new(10, 77, 0, last), v6)
    }
}

/// Two hosts `src` and `dst` with one veth link; everything is gone on drop, and also when this
/// process is killed.
///
/// Each host has its own network, processes, mounts and name. The root file system is one and the
/// same, except `/proc` and the scratch directory, which each host has for itself. No name outside
/// of the hosts is taken, so any number of labs run side by side.
#[derive(Debug)]
pub struct Lab {
    src: Host,
    dst: Host,
    shared: TempDir,
}

impl Lab {
    /// The usual lab, with `lab-init` found beside this executable.
    pub fn two_hosts() -> Result<Self> {
        Self::with_init(&InitCommand::beside_current_exe()?, Path::new(SCRATCH))
    }

    /// A lab whose process 1 is `init`, and whose hosts have their private files at `scratch`
    /// (made if missing, and left as an empty directory afterwards).
    pub fn with_init(init: &InitCommand, scratch: &Path) -> Result<Self> {
        crate::inherited::close();
        std::fs::create_dir_all(scratch).map_err(LabError::file("make", scratch))?;
        let shared = tempfile::Builder::new()
            .prefix("qmig-lab-")
            .tempdir()
            .map_err(LabError::file("make a directory in", std::env::temp_dir()))?;
        open_to_all(shared.path())?;
        let start =
            |side: Side, name| Host::start(init, name, side.addresses(), scratch, shared.path());
        let (src, dst) = (start(Side::Source, "src")?, start(Side::Destination, "dst")?);
        let lab = Self { src, dst, shared };
        lab.wire()?;
        Ok(lab)
    }

    /// The source host.
    pub fn src(&self) -> &Host {
        &self.src
    }

    /// The destination host.
    pub fn dst(&self) -> &Host {
        &self.dst
    }

    /// The host of that side.
    pub fn host(&self, side: Side) -> &Host {
        match side {
            Side::Source => &self.src,
            Side::Destination => &self.dst,
        }
    }

    /// A directory of the shared root file system: the same files on both hosts.
    pub fn shared(&self) -> &Path {
        self.shared.path()
    }

    /// Cut the link both ways, silently: the carrier stays, packets vanish, no one gets an error.
    pub fn cut(&self) -> Result<()> {
        Side::BOTH.into_iter().try_for_each(|side| self.cut_from(side))
    }

    /// Cut the link one way: what `side` sends is lost, what it should receive still arrives.
    pub fn cut_from(&self, side: Side) -> Result<()> {
        self.aim(side, NOWHERE)
    }

    /// Mend what was cut.
    pub fn heal(&self) -> Result<()> {
        Side::BOTH.into_iter().try_for_each(|side| self.aim(side, side.other().mac()))
    }

    /// Pull the plug: the link is down and both hosts know, so that sending fails at once.
    pub fn unplug(&self) -> Result<()> {
        Side::BOTH.into_iter().try_for_each(|side| self.ip(side, &["link", "set", LINK, "down"]))
    }

    /// Put the plug back.
    pub fn plug(&self) -> Result<()> {
        Side::BOTH.into_iter().try_for_each(|side| self.ip(side, &["link", "set", LINK, "up"]))?;
        // Neighbours learnt by hand go with the link.
        self.heal()
    }

    /// Every process on either host except its process 1.
    pub fn leftovers(&self) -> Vec<(Side, Process)> {
        let of = |side: Side| self.host(side).pids().into_iter().map(move |one| (side, one));
        Side::BOTH.into_iter().flat_map(of).collect()
    }

    /// Wait until no process is left on either host, and return those that are at the deadline.
    /// (Process 1 needs a moment to bury orphans.)
    pub fn wait_empty(&self, deadline: Duration) -> Vec<(Side, Process)> {
        let end = Instant::now() + deadline;
        loop {
            let left = self.leftovers();
            if left.is_empty() || Instant::now() >= end {
                return left;
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// What this lab occupies on the machine, to be looked for after it is gone.
    pub fn footprint(&self) -> Footprint {
        let namespaces = Side::BOTH
            .into_iter()
            .flat_map(|side| links_of(&self.host(side).init_folder()))
            .filter(|link| !links_of(Path::new("/proc/self")).contains(link))
            .collect();
        Footprint { namespaces, shared: self.shared.path().to_owned() }
    }

    fn wire(&self) -> Result<()> {
        let far = self.dst.init_folder().join("ns/net");
        let (src, dst) = (Side::Source, Side::Destination);
        let far = far.to_string_lossy();
        self.ip(
            src,
            &[
                "link",
                "add",
                LINK,
                "address",
                src.mac(),
                "type",
                "veth",
                "peer",
                "name",
                LINK,
                "address",
                dst.mac(),
                "netns",
                &far,
            ],
        )?;
        for side in Side::BOTH {
            // Without this an unplugged link would forget its IPv6 addresses. /proc/sys/net shows
            // the network of the reader, so the host itself must write it.
            let mut sysctl = Command::new("sh");
            sysctl.args(["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/keep_addr_on_down"]);
            self.host(side).run(sysctl)?;
            let (v4, v6) = side.addresses();
            self.ip(side, &["link", "set", "lo", "up"])?;
            self.ip(side, &["addr", "add", &format!("{v4}/24"), "dev", LINK])?;
            self.ip(side, &["addr", "add", &format!("{v6}/64"), "dev", LINK, "nodad"])?;
        }
        self.plug()
    }

    /// Tell `side` at which hardware address the other one lives.
    fn aim(&self, side: Side, mac: &str) -> Result<()> {
        let (v4, v6) = side.other().addresses();
        for address in [v4.to_string(), v6.to_string()] {
            self.ip(
                side,
                &["neigh", "replace", &address, "lladdr", mac, "dev", LINK, "nud", "permanent"],
            )?;
        }
        Ok(())
    }

    fn ip(&self, side: Side, args: &[&str]) -> Result<()> {
        let mut ip = Command::new("ip");
        ip.args(args);
        self.host(side).run_on_network(ip).map(drop)
    }
}

/// The traces a lab leaves on a machine while it exists.
#[derive(Debug)]
pub struct Footprint {
    namespaces: BTreeSet<PathBuf>,
    shared: PathBuf,
}

impl Footprint {
    /// What of it is still there: processes in its namespaces, its shared directory.
    pub fn remains(&self) -> Vec<String> {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut remains: Vec<String> = processes
            .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
            .filter(|entry| !links_of(&entry.path()).is_disjoint(&self.namespaces))
            .map(|entry| {
                let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                format!("process {} ({})", entry.file_name().display(), comm.trim())
            })
            .collect();
        if self.shared.exists() {
            remains.push(format!("directory {}", self.shared.display()));
        }
        remains
    }
}

/// The namespaces of a process, as `net:[4026532289]`.
fn links_of(process: &Path) -> BTreeSet<PathBuf> {
    ["net", "mnt", "uts", "pid"]
        .into_iter()
        .filter_map(|name| std::fs::read_link(process.join("ns").join(name)).ok())
        .collect()
}

/// Subjects give up root; they must still reach their files.
fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o1777))
        .map_err(LabError::file("open to all", folder))
}
