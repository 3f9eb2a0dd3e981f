//! The lab: two hosts and the link between them.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::host::{Host, Process};
use crate::init::InitCommand;
use crate::link::{Emulator, Link};
use crate::running::GLANCE;
use crate::{LabError, Result};

/// Where each host finds its own private directory, unless told otherwise.
const SCRATCH: &str = "/run/qmig-lab";

/// What makes a host.
const NAMESPACES: [&str; 4] = ["net", "mnt", "uts", "pid"];
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

    pub(crate) fn mac(self) -> &'static str {
        match self {
            Self::Source => "02:77:00:00:00:01",
            Self::Destination => "02:77:00:00:00:02",
        }
    }

    fn last(self) -> u8 {
        match self {
            Self::Source => 1,
            Self::Destination => 2,
        }
    }
}

fn addresses(last: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(last));
    (Ipv4Addr::new(10, 77, 0, last), v6)
}

/// The hardware address and the last part of the IP addresses of a third host.
const CLIENT: (&str, u8) = ("02:77:00:00:00:03", 3);

/// Two hosts `src` and `dst` with one link; everything is gone on drop, and also when this process
/// is killed.
///
/// Each host has its own network, processes, mounts and name. The root file system is one and the
/// same, except `/proc` and the scratch directory, which each host has for itself. No name outside
/// of the hosts is taken, so any number of labs run side by side.
#[derive(Debug)]
pub struct Lab {
    /// The link, if it is an emulated one; else it is a veth pair. First, for it must end while the
    /// networks are still there.
    emulator: Option<Emulator>,
    src: Host,
    dst: Host,
    client: Option<Host>,
    shared: TempDir,
}

/// A lab before it is built: see [`Lab::plan`].
#[derive(Clone, Debug, Default)]
pub struct LabPlan {
    link: Option<Link>,
    mtu: Option<u32>,
    client: bool,
    init: Option<InitCommand>,
    scratch: Option<PathBuf>,
}

impl LabPlan {
    /// With an emulated link instead of a plain veth pair. It needs `qmig-link` beside this
    /// executable.
    #[must_use]
    pub fn link(mut self, link: Link) -> Self {
        self.link = Some(link);
        self
    }

    /// With frames of this size on a plain veth pair, instead of Ethernet's 1500.
    #[must_use]
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = Some(bytes);
        self
    }

    /// With a third host `client` on the same network, near both of the others (its paths are not
    /// impaired). The link is then emulated, and changes nothing unless told otherwise.
    #[must_use]
    pub fn client(mut self) -> Self {
        self.client = true;
        self
    }

    /// With this as process 1 of each host.
    #[must_use]
    pub fn init(mut self, init: &InitCommand) -> Self {
        self.init = Some(init.clone());
        self
    }

    /// With the hosts' private files at `scratch` (made if missing, and left as an empty directory
    /// afterwards).
    #[must_use]
    pub fn scratch(mut self, scratch: &Path) -> Self {
        self.scratch = Some(scratch.to_owned());
        self
    }

    /// Build it.
    pub fn build(self) -> Result<Lab> {
        crate::inherited::close();
        let init = self.init.map_or_else(InitCommand::beside_current_exe, Ok)?;
        let scratch = self.scratch.unwrap_or_else(|| SCRATCH.into());
        std::fs::create_dir_all(&scratch).map_err(LabError::file("make", &scratch))?;
        let shared = tempfile::Builder::new()
            .prefix("qmig-lab-")
            .tempdir()
            .map_err(LabError::file("make a directory in", std::env::temp_dir()))?;
        open_to_all(shared.path())?;
        let start = |name, last| Host::start(&init, name, addresses(last), &scratch, shared.path());
        let (src, dst) =
            (start("src", Side::Source.last())?, start("dst", Side::Destination.last())?);
        let client = self.client.then(|| start("client", CLIENT.1)).transpose()?;
        let link = self.link.or_else(|| client.is_some().then(Link::perfect));
        let mut lab = Lab { emulator: None, src, dst, client, shared };
        match link {
            None => lab.join_by_veth()?,
            Some(link) => lab.emulator = Some(lab.join_by(&link)?),
        }
        lab.address()?;
        if let Some(mtu) = self.mtu {
            lab.resize_frames(mtu)?;
        }
        Ok(lab)
    }
}

impl Lab {
    /// The usual lab: a plain veth link, and `lab-init` found beside this executable.
    pub fn two_hosts() -> Result<Self> {
        Self::plan().build()
    }

    /// A lab that is other than usual.
    ///
    /// ```no_run
    /// # use netns_tests::{Lab, Link, Side};
    /// # fn main() -> Result<(), netns_tests::LabError> {
    /// let lab = Lab::plan().link(Link::transatlantic()).build()?;
    /// // … move something …
    /// let measured = lab.emulator().map(|link| link.tally(Side::Source)).transpose()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn plan() -> LabPlan {
        LabPlan::default()
    }

    /// Gives each host pseudo-terminals of its own, as two machines have them: otherwise those that
    /// the source holds are taken on the destination. Terminals of the test itself are then unknown
    /// to the hosts.
    pub fn part_terminals(&self) -> Result<()> {
        for host in [&self.src, &self.dst] {
            let mut mount = Command::new("mount");
            mount.args(["-t", "devpts", "-o", "newinstance,ptmxmode=0666,mode=0620,gid=5"]);
            mount.args(["devpts", "/dev/pts"]);
            host.run(mount)?;
        }
        Ok(())
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

    /// The third host, if there is one.
    pub fn client(&self) -> Option<&Host> {
        self.client.as_ref()
    }

    /// The emulated link, if it is one.
    pub fn emulator(&self) -> Option<&Emulator> {
        self.emulator.as_ref()
    }

    /// Bytes of frames that the source has sent over the link, and received.
    pub(crate) fn frames(&self) -> (u64, u64) {
        // The network of a process, whoever reads.
        let path = self.src.init_folder().join("net/dev");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| line.trim().strip_prefix(LINK)?.strip_prefix(':'));
        let mut columns = line.unwrap_or_default().split_whitespace();
        let mut column = |number| columns.nth(number)?.parse::<u64>().ok();
        let received = column(0).unwrap_or(0);
        (column(7).unwrap_or(0), received)
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
        match &self.emulator {
            Some(link) => link.cut_from(side),
            None => self.aim(side, NOWHERE),
        }
    }

    /// Mend what was cut.
    pub fn heal(&self) -> Result<()> {
        self.emulator.iter().try_for_each(Emulator::heal)?;
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
        let hosts = [&self.src, &self.dst].into_iter().chain(&self.client);
        let ours = links_of(Path::new("/proc/self"));
        let namespaces: BTreeSet<PathBuf> = hosts
            .clone()
            .flat_map(|host| links_of(&host.init_folder()))
            .filter(|link| !ours.contains(link))
            .collect();
        let kept = hosts
            .flat_map(|host| NAMESPACES.map(|name| host.init_folder().join("ns").join(name)))
            .filter_map(|path| File::open(path).ok())
            .collect();
        Footprint { namespaces, kept, shared: self.shared.path().to_owned() }
    }

    fn join_by_veth(&self) -> Result<()> {
        let far = self.dst.init_folder().join("ns/net");
        let (src, dst) = (Side::Source.mac(), Side::Destination.mac());
        let near = ["link", "add", LINK, "address", src, "type", "veth"];
        let far = ["peer", "name", LINK, "address", dst, "netns", &far.to_string_lossy()];
        ip(&self.src, &[&near[..], &far[..]].concat())
    }

    fn join_by(&self, link: &Link) -> Result<Emulator> {
        let mut ends = vec![("src", self.src.init_folder()), ("dst", self.dst.init_folder())];
        ends.extend(self.client.iter().map(|host| ("client", host.init_folder())));
        Emulator::start(LINK, &ends, link)
    }

    fn address(&self) -> Result<()> {
        let both = Side::BOTH.map(|side| (self.host(side), side.mac(), side.last()));
        let client = self.client.iter().map(|host| (host, CLIENT.0, CLIENT.1));
        for (host, mac, last) in both.into_iter().chain(client) {
            // Without this an unplugged link would forget its IPv6 addresses. /proc/sys/net shows
            // the network of the reader, so the host itself must write it.
            let mut sysctl = Command::new("sh");
            sysctl.args(["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/keep_addr_on_down"]);
            host.run(sysctl)?;
            let (v4, v6) = addresses(last);
            ip(host, &["link", "set", "lo", "up"])?;
            ip(host, &["link", "set", LINK, "address", mac])?;
            ip(host, &["addr", "add", &format!("{v4}/24"), "dev", LINK])?;
            ip(host, &["addr", "add", &format!("{v6}/64"), "dev", LINK, "nodad"])?;
            ip(host, &["link", "set", LINK, "up"])?;
        }
        self.heal()
    }

    fn resize_frames(&self, mtu: u32) -> Result<()> {
        let mtu = mtu.to_string();
        let resize = |side| self.ip(side, &["link", "set", LINK, "mtu", &mtu]);
        Side::BOTH.into_iter().try_for_each(resize)
    }

    /// Tell `side` at which hardware address the other one lives.
    fn aim(&self, side: Side, mac: &str) -> Result<()> {
        let (v4, v6) = addresses(side.other().last());
        for address in [v4.to_string(), v6.to_string()] {
            self.ip(
                side,
                &["neigh", "replace", &address, "lladdr", mac, "dev", LINK, "nud", "permanent"],
            )?;
        }
        Ok(())
    }

    /// Give a host another address in the place of the IPv4 address it has, or none.
    pub fn readdress(&self, side: Side, to: Option<Ipv4Addr>) -> Result<()> {
        let old = format!("{}/24", self.host(side).addr());
        self.ip(side, &["addr", "del", &old, "dev", LINK])?;
        let Some(new) = to else { return Ok(()) };
        self.ip(side, &["addr", "add", &format!("{new}/24"), "dev", LINK])
    }

    fn ip(&self, side: Side, args: &[&str]) -> Result<()> {
        ip(self.host(side), args)
    }
}

pub(crate) fn ip(host: &Host, args: &[&str]) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(args);
    host.run_on_network(ip).map(drop)
}

/// The traces a lab leaves on a machine while it exists.
#[derive(Debug)]
pub struct Footprint {
    namespaces: BTreeSet<PathBuf>,
    /// While these are open, no other lab gets a namespace of the same number.
    kept: Vec<File>,
    shared: PathBuf,
}

impl Footprint {
    /// How many descriptors of this process it takes to keep.
    pub fn descriptors(&self) -> usize {
        self.kept.len()
    }

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
    NAMESPACES
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
