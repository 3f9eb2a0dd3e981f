//! Every kind of image: its file name, its head and its messages, in one table.

use std::fmt;

use prost::{DecodeError, Message};
use serde::Serialize;
use serde_json::Value;

use crate::error::{BadImage, shortened};
use crate::{magic, messages};

/// The words an image file starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// None: the content belongs to another program.
    Raw,
    /// The magic of the kind alone.
    Bare(u32),
    /// The common magic, then that of the kind.
    Common(u32),
    /// The service magic, then that of the kind.
    Service(u32),
}

/// How an image's name goes on after its stem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `.img`: there is one such image.
    Single,
    /// `-N.img`, decimal.
    Decimal,
    /// `-N.img`, hexadecimal.
    Hex,
    /// `-N.tar.gz.img`, decimal.
    Tar,
    /// The stem is the whole name.
    Whole,
}

/// A message type as images hold it.
#[derive(Clone, Copy)]
pub struct MessageType {
    /// Its name in [`crate::messages`].
    pub name: &'static str,
    /// Bytes to JSON.
    pub(crate) json: fn(&[u8]) -> Result<Value, DecodeError>,
    /// Bytes to bytes, by way of the message.
    pub(crate) rewrite: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

/// The messages of an image.
#[derive(Clone, Copy, Debug)]
pub enum Entries {
    /// None: raw bytes.
    Nothing,
    /// Exactly one.
    One(MessageType),
    /// Any number.
    Many(MessageType),
    /// One, then any number of the other.
    Headed(MessageType, MessageType),
}

struct Row {
    stem: &'static str,
    naming: Naming,
    head: Head,
    entries: Entries,
}

macro_rules! kinds {
    ($($kind:ident $stem:literal $naming:ident $head:ident$(($magic:ident))? $entries:ident$(($($message:ident),*))?;)*) => {
        /// A kind of image.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ImageKind {
            $(
                #[doc = concat!("Images named `", $stem, "` and so on.")]
                $kind,
            )*
        }

        const KINDS: &[ImageKind] = &[$(ImageKind::$kind),*];

        const TABLE: &[Row] = &[$(
            Row {
                stem: $stem,
                naming: Naming::$naming,
                head: Head::$head$((magic::$magic))?,
                entries: Entries::$entries$(($(MessageType {
                    name: stringify!($message),
                    json: to_json::<messages::$message>,
                    rewrite: rewritten::<messages::$message>,
                }),*))?,
            },
        )*];
    };
}

kinds! {
    Inventory "inventory" Single Bare(INVENTORY) One(InventoryEntry);
    Pstree "pstree" Single Common(PSTREE) Many(PstreeEntry);
    Core "core" Decimal Common(CORE) One(CoreEntry);
    Ids "ids" Decimal Common(IDS) One(TaskKobjIdsEntry);
    Mm "mm" Decimal Common(MM) One(MmEntry);
    Fs "fs" Decimal Common(FS) One(FsEntry);
    Pagemap "pagemap" Decimal Common(PAGEMAP) Headed(PagemapHead, PagemapEntry);
    PagemapShared "pagemap-shmem" Decimal Common(PAGEMAP) Headed(PagemapHead, PagemapEntry);
    Pages "pages" Decimal Raw Nothing;
    FdInfo "fdinfo" Decimal Common(FDINFO) Many(FdinfoEntry);
    Files "files" Single Common(FILES) Many(FileEntry);
    RemapPaths "remap-fpath" Single Common(REMAP_FPATH) Many(RemapFilePathEntry);
    GhostFile "ghost-file" Hex Common(GHOST_FILE) Headed(GhostFileEntry, GhostChunkEntry);
    Memfd "memfd" Single Common(MEMFD_INODE) Many(MemfdInodeEntry);
    PipesData "pipes-data" Single Common(PIPES_DATA) Many(PipeDataEntry);
    FifoData "fifo-data" Single Common(FIFO_DATA) Many(PipeDataEntry);
    SocketQueues "sk-queues" Single Common(SK_QUEUES) Many(SkPacketEntry);
    TcpStream "tcp-stream" Hex Common(TCP_STREAM) One(TcpStreamEntry);
    TtyInfo "tty-info" Single Common(TTY_INFO) Many(TtyInfoEntry);
    TtyData "tty-data" Single Common(TTY_DATA) Many(TtyDataEntry);
    FileLocks "filelocks" Single Common(FILE_LOCKS) Many(FileLockEntry);
    Seccomp "seccomp" Single Common(SECCOMP) One(SeccompEntry);
    Cgroup "cgroup" Single Common(CGROUP) One(CgroupEntry);
    AppArmor "apparmor" Single Common(APPARMOR) One(ApparmorEntry);
    BpfMapFile "bpfmap-file" Single Common(BPFMAP_FILE) Many(BpfmapFileEntry);
    BpfMapData "bpfmap-data" Single Common(BPFMAP_DATA) Many(BpfmapDataEntry);
    UtsNs "utsns" Decimal Common(UTSNS) One(UtsnsEntry);
    IpcVariables "ipcns-var" Decimal Common(IPC_VAR) One(IpcVarEntry);
    IpcShared "ipcns-shm" Decimal Common(IPC_SHM) Many(IpcShmEntry);
    IpcMessages "ipcns-msg" Decimal Common(IPC_MSG) Many(IpcMsgEntry);
    IpcSemaphores "ipcns-sem" Decimal Common(IPC_SEM) Many(IpcSemEntry);
    MountPoints "mountpoints" Decimal Common(MOUNTPOINTS) Many(MntEntry);
    NetDevices "netdev" Decimal Common(NETDEV) Many(NetDeviceEntry);
    NetNs "netns" Decimal Common(NETNS) One(NetnsEntry);
    Addresses "ifaddr" Decimal Raw Nothing;
    Routes "route" Decimal Raw Nothing;
    Routes6 "route6" Decimal Raw Nothing;
    Rules "rule" Decimal Raw Nothing;
    IpTables "iptables" Decimal Raw Nothing;
    Ip6Tables "ip6tables" Decimal Raw Nothing;
    NfTables "nftables" Decimal Raw Nothing;
    Conntrack "netns-ct" Decimal Raw Nothing;
    ConntrackExpect "netns-exp" Decimal Raw Nothing;
    UserNs "userns" Decimal Common(USERNS) One(UsernsEntry);
    TimeNs "timens" Decimal Common(TIMENS) One(TimensEntry);
    PidNs "pidns" Decimal Common(PIDNS) One(PidnsEntry);
    TmpfsDevice "tmpfs-dev" Tar Raw Nothing;
    Tmpfs "tmpfs" Tar Raw Nothing;
    AutoFs "autofs" Decimal Common(AUTOFS) One(AutofsEntry);
    BinfmtMisc "binfmt-misc" Single Common(BINFMT_MISC) Many(BinfmtMiscEntry);
    CpuInfo "cpuinfo" Single Common(CPUINFO) One(CpuinfoEntry);
    DumpStats "stats-dump" Whole Service(STATS) One(StatsEntry);
    RestoreStats "stats-restore" Whole Service(STATS) One(StatsEntry);
    IrmapCache "irmap-cache" Whole Service(IRMAP_CACHE) Many(IrmapCacheEntry);
}

impl ImageKind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        KINDS.iter().copied()
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// What its files start with.
    pub fn head(self) -> Head {
        self.row().head
    }

    /// Its messages.
    pub fn entries(self) -> Entries {
        self.row().entries
    }

    /// File name of the image with this number, which is ignored where there is only one.
    pub fn name(self, number: u32) -> String {
        let Row { stem, naming, .. } = *self.row();
        match naming {
            Naming::Single => format!("{stem}.img"),
            Naming::Decimal => format!("{stem}-{number}.img"),
            Naming::Hex => format!("{stem}-{number:x}.img"),
            Naming::Tar => format!("{stem}-{number}.tar.gz.img"),
            Naming::Whole => stem.to_owned(),
        }
    }

    /// Kind and number (zero where there is only one) of the image with this name. A name is taken
    /// only in the one spelling that [`Self::name`] gives it.
    pub fn of_name(name: &str) -> Option<(Self, u32)> {
        let number_in = |kind: Self| {
            let Row { stem, naming, .. } = *kind.row();
            let rest = name.strip_prefix(stem)?;
            let dashed = |ending| rest.strip_prefix('-')?.strip_suffix(ending);
            match naming {
                Naming::Single | Naming::Whole => Some(0),
                Naming::Decimal => dashed(".img")?.parse().ok(),
                Naming::Hex => u32::from_str_radix(dashed(".img")?, 16).ok(),
                Naming::Tar => dashed(".tar.gz.img")?.parse().ok(),
            }
        };
        Self::all()
            .filter_map(|kind| Some((kind, number_in(kind)?)))
            .find(|(kind, number)| kind.name(*number) == name)
    }

    /// Longest entry that is read: an entry's memory grows with its length.
    pub(crate) fn longest_entry(self) -> u64 {
        match self {
            // 45 bytes a mapping; vm.max_map_count is 65530 unless an operator raised it.
            Self::Mm => 16 << 20,
            Self::Cgroup | Self::AppArmor | Self::Seccomp | Self::TtyData => 16 << 20,
            _ => 1 << 20,
        }
    }

    /// Most entries that are read.
    pub(crate) fn most_entries(self) -> usize {
        match self {
            // A page here and a page there: one entry for each second page of 64 GiB.
            Self::Pagemap | Self::PagemapShared => 1 << 23,
            _ => 1 << 20,
        }
    }
}

fn to_json<M: Message + Default + Serialize>(bytes: &[u8]) -> Result<Value, DecodeError> {
    let message = M::decode(bytes)?;
    Ok(serde_json::to_value(&message).unwrap_or(Value::Null))
}

fn rewritten<M: Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    Ok(M::decode(bytes)?.encode_to_vec())
}

impl fmt::Debug for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Checks that a name is one an image could have: lower-case letters, digits, `-`, `_` and `.`,
/// neither first nor doubled, at most 64.
pub fn check_name(name: &str) -> Result<(), BadImage> {
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
    };
    let fine = (1..=64).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with(['.', '-'])
        && !name.contains("..");
    if fine { Ok(()) } else { Err(BadImage::Name { name: shortened(name) }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_kinds_are_inverse() {
        for kind in ImageKind::all() {
            let name = kind.name(26);
            check_name(&name).expect("our own names are valid");
            let (back, number) = ImageKind::of_name(&name).expect("a known name");
            assert_eq!(back, kind, "{name}");
            let numbered = !matches!(kind.row().naming, Naming::Single | Naming::Whole);
            assert_eq!(number, if numbered { 26 } else { 0 }, "{name}");
        }
        assert_eq!(ImageKind::GhostFile.name(26), "ghost-file-1a.img");
        assert_eq!(ImageKind::Tmpfs.name(26), "tmpfs-26.tar.gz.img");
    }

    #[test]
    fn only_the_one_spelling_is_a_name() {
        for name in ["core-01.img", "core-.img", "core.img", "core-+1.img", "core--1.img"] {
            assert_eq!(ImageKind::of_name(name), None, "{name}");
        }
        for name in ["ghost-file-1A.img", "core-4294967296.img", "pstree.img.img", "pstree"] {
            assert_eq!(ImageKind::of_name(name), None, "{name}");
        }
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a..b", "-rf", "A.img", "x\0"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name(&"a".repeat(65)).is_err());
    }
}
