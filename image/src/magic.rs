//! The first words of image files (`criu/include/magic.h` in CRIU).

/// First word of most images.
pub const COMMON: u32 = 0x5456_4319;
/// First word of service files: statistics and caches.
pub const SERVICE: u32 = 0x5510_5940;

macro_rules! magics {
    ($($name:ident = $value:literal;)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "_MAGIC`.")]
            pub const $name: u32 = $value;
        )*
    };
}

magics! {
    INVENTORY = 0x5831_3116;
    PSTREE = 0x5027_3030;
    CORE = 0x5505_3847;
    IDS = 0x5443_2030;
    MM = 0x5749_2820;
    FS = 0x5140_3912;
    PAGEMAP = 0x5608_4025;
    FDINFO = 0x5621_3732;
    FILES = 0x5630_3138;
    REMAP_FPATH = 0x5913_3954;
    GHOST_FILE = 0x5258_3605;
    MEMFD_INODE = 0x4845_3499;
    PIPES_DATA = 0x5645_3709;
    FIFO_DATA = 0x5933_3054;
    SK_QUEUES = 0x5626_4026;
    TCP_STREAM = 0x5146_5506;
    TTY_INFO = 0x5945_3036;
    TTY_DATA = 0x5941_3026;
    FILE_LOCKS = 0x5432_3616;
    SECCOMP = 0x6441_3049;
    CGROUP = 0x5938_3330;
    APPARMOR = 0x5942_3047;
    BPFMAP_FILE = 0x5750_6142;
    BPFMAP_DATA = 0x6432_4033;
    UTSNS = 0x5447_3203;
    IPC_VAR = 0x5311_5007;
    IPC_SHM = 0x4628_3044;
    IPC_MSG = 0x5545_3737;
    IPC_SEM = 0x5957_3019;
    MOUNTPOINTS = 0x5556_3928;
    NETDEV = 0x5737_3951;
    NETNS = 0x5593_3752;
    USERNS = 0x5547_4906;
    TIMENS = 0x4311_4433;
    PIDNS = 0x6115_7326;
    AUTOFS = 0x4935_3943;
    BINFMT_MISC = 0x6734_3323;
    CPUINFO = 0x6140_4013;
    STATS = 0x5709_3306;
    IRMAP_CACHE = 0x5700_4059;
}
