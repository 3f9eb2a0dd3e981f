//! What was typed, turned into what it means; errors carry a hint.

use std::net::UdpSocket;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use checkpoint::TcpPolicy;
use transport::quic::{self, ByteRate, Congestion, LinkOptions, Remedies};

use crate::args::{CaFiles, Measured, With, Without};
use crate::progress::Failure;

/// `300ms`, `10s`, `2min`: a number with its unit.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error} (write it like 300ms or 10s)"))
}

/// `64MiB`, `1GB`, `4096`: bytes, with a unit if wanted.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    bytesize::ByteSize::from_str(text)
        .map(|size| size.as_u64())
        .map_err(|error| format!("{error} (write it like 64MiB)"))
}

/// `100Mbit`, `1.5Gbit`: bits in a second, as networks are sold; `12MB`: bytes.
pub(crate) fn parse_rate(text: &str) -> Result<ByteRate, String> {
    const UNITS: [(&str, f64); 7] = [
        ("kbit", 125.0),
        ("Mbit", 125e3),
        ("Gbit", 125e6),
        ("bit", 0.125),
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
    ];
    let rate = text.strip_suffix("/s").unwrap_or(text);
    let found = UNITS.iter().find_map(|(unit, bytes)| Some((rate.strip_suffix(unit)?, bytes)));
    let rate = found.and_then(|(number, bytes)| Some(number.trim().parse::<f64>().ok()? * bytes));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
    let rate = rate.and_then(|bytes| NonZeroU64::new(bytes as u64));
    rate.map(ByteRate).ok_or_else(|| "write it like 100Mbit or 12MB (a second)".to_owned())
}

/// Where this host's key, its known peers and its authorized peers live: `--home`, else
/// `$XDG_CONFIG_HOME/qmig`, else `~/.config/qmig`, for root without a home `/etc/qmig`.
pub(crate) fn home(given: Option<&Path>) -> PathBuf {
    if let Some(dir) = given {
        return dir.to_owned();
    }
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let user = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    config.or_else(user).unwrap_or_else(|| PathBuf::from("/etc")).join("qmig")
}

/// Tracing other users' processes, their descriptors and page maps, and namespaces.
const NEEDED: [(u32, &str); 2] = [(19, "CAP_SYS_PTRACE"), (21, "CAP_SYS_ADMIN")];

/// Says so before anything else if this qmig may not do its work.
pub(crate) fn need_root() -> Result<(), Failure> {
    let me = tracee::HostPid(nix::unistd::getpid().as_raw());
    let capabilities =
        tracee::proc::status::Status::read(me).map_or(u64::MAX, |status| status.cap_effective);
    let missing: Vec<_> = NEEDED
        .into_iter()
        .filter(|(bit, _)| capabilities & (1 << bit) == 0)
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::here(format!("do this without root: {} missing", missing.join(" and ")))
        .hint("run it as root"))
}

/// What is to become of TCP connections.
pub(crate) fn tcp(established: bool, close: bool) -> TcpPolicy {
    match (established, close) {
        (true, _) => TcpPolicy::Keep,
        (false, true) => TcpPolicy::Close,
        (false, false) => TcpPolicy::Refuse,
    }
}

/// How this qmig calls itself to the other end.
pub(crate) fn software() -> String {
    concat!("qmig ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// The stock CRIU of this host.
pub(crate) fn criu() -> Result<criu::Criu, Failure> {
    let found = criu::find().ok_or_else(|| {
        Failure::here("find a criu in $PATH".to_owned())
            .hint("install CRIU 4.0 or newer, or name one by QMIG_CRIU")
    })?;
    if found.version < criu::Criu::OLDEST {
        let what = format!("use {} {}", found.path.display(), found.version);
        return Err(Failure::here(what).hint("install CRIU 4.0 or newer"));
    }
    Ok(found)
}

/// A container by the name that one of the runtimes knows it by.
pub(crate) fn container(
    runc: Option<&str>,
    crun: Option<&str>,
    podman: Option<&str>,
    state: Option<&Path>,
) -> Option<criu::Container> {
    let runc = runc.map(|id| ("runc", id));
    let (runtime, id) =
        runc.or_else(|| crun.map(|id| ("crun", id))).or_else(|| podman.map(|id| ("podman", id)))?;
    let state = state.map(Path::to_owned);
    Some(criu::Container { runtime: runtime.into(), state, id: id.to_owned(), console: None })
}

/// The files of a certificate authority, if they were named.
pub(crate) fn ca_files(args: &CaFiles) -> Result<Option<quic::CaFiles>, Failure> {
    let (Some(cacert), Some(cert), Some(key)) = (&args.cacert, &args.cert, &args.key) else {
        return Ok(None);
    };
    let files = quic::CaFiles::load(cacert, cert, key)
        .map_err(|error| Failure::usage(error.to_string(), "all three are PEM files"))?;
    Ok(Some(files))
}

/// How the link is made.
pub(crate) fn link(socket_fd: Option<i32>, measured: &Measured) -> Result<LinkOptions, Failure> {
    let with = |what| !measured.link_without.contains(&what);
    let congestion =
        if with(Without::DelayControl) { Congestion::Delay } else { Congestion::Cubic };
    let remedies = Remedies {
        priorities: with(Without::Priorities),
        credit: with(Without::Credit),
        streams: with(Without::Streams),
        socket_buffer: with(Without::SocketBuffer),
        second: measured.link_with.contains(&With::SecondConnection),
    };
    let socket = inherited_socket(socket_fd)?;
    Ok(LinkOptions { socket, congestion, remedies, ..LinkOptions::default() })
}

/// First number of the descriptors that systemd passes, sd_listen_fds(3).
const FIRST_PASSED: i32 = 3;

/// The socket by which systemd activates this qmig.
pub(crate) fn activated() -> Result<i32, Failure> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let passed = passed(number("LISTEN_PID"), number("LISTEN_FDS"), std::process::id());
    passed.ok_or_else(|| {
        let hint = "give --listen, --socket-fd or --images-dir, or let systemd pass one UDP socket";
        Failure::usage("know where to wait", hint)
    })
}

/// Its number, if exactly one was passed, and to us.
fn passed(to: Option<u32>, count: Option<u32>, us: u32) -> Option<i32> {
    (to == Some(us) && count == Some(1)).then_some(FIRST_PASSED)
}

/// The UDP socket behind `--socket-fd`.
fn inherited_socket(number: Option<i32>) -> Result<Option<UdpSocket>, Failure> {
    let Some(number) = number else { return Ok(None) };
    let socket = tracee::host::inherited_udp_socket(number).map_err(|error| {
        Failure::usage(
            format!("use descriptor {number}: {error}"),
            "--socket-fd wants a bound UDP socket that qmig inherits",
        )
    })?;
    Ok(Some(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_counts_if_it_is_one_and_ours() {
        assert_eq!(passed(Some(7), Some(1), 7), Some(3));
        for (to, count) in
            [(Some(8), Some(1)), (Some(7), Some(2)), (Some(7), Some(0)), (None, None)]
        {
            assert_eq!(passed(to, count, 7), None, "{to:?} {count:?}");
        }
    }

    #[test]
    fn units_are_understood_and_nonsense_is_not() {
        assert_eq!(parse_duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(parse_duration("10min"), Ok(Duration::from_secs(600)));
        assert!(parse_duration("soon").is_err());
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert!(parse_bytes("lots").is_err());
        let rate = |text: &str| parse_rate(text).map(|rate| rate.0.get());
        assert_eq!(rate("100Mbit"), Ok(12_500_000));
        assert_eq!(rate("1.5 Gbit/s"), Ok(187_500_000));
        assert_eq!(rate("12MB"), Ok(12_000_000));
        assert_eq!(rate("8bit"), Ok(1));
        for nonsense in ["fast", "100", "0Mbit", "-1Mbit", "7bit", "Mbit", "NaNMbit"] {
            assert!(rate(nonsense).is_err(), "{nonsense}");
        }
    }
}
