//! Memory, one of each kind of mapping.

use image::state::*;
use pages::{PageRange, SharedId, VirtAddr};

fn vma(start: u64, end: u64, prot: u32, kind: VmaKind) -> Vma {
    Vma {
        name: (start == 0x40_0000).then(|| "arena".to_owned()),
        range: PageRange::from_addrs(VirtAddr(start), VirtAddr(end)).expect("a range"),
        prot,
        kind,
        flags: VmaFlags::empty(),
        advice: Advice::empty(),
    }
}

pub(super) fn mm() -> Mm {
    let file = |shared, access| VmaKind::File { file: FileId(20), offset: 4096, shared, access };
    let memfd = |file, shared| VmaKind::Memfd { file: FileId(file), offset: 0, shared, access: 2 };
    let mut stack = vma(0x7ffe_0000_0000, 0x7ffe_0002_1000, 3, VmaKind::Anon);
    stack.flags = VmaFlags::GROWS_DOWN | VmaFlags::LOCKED;
    let mut heap = vma(0x1000_0000, 0x1002_1000, 3, VmaKind::Anon);
    heap.flags = VmaFlags::NO_RESERVE;
    heap.advice = Advice::DONT_FORK | Advice::NO_HUGE_PAGE;
    let huge = VmaKind::Huge(HugeSize::of_bytes(2 << 20).expect("2 MiB"));
    Mm {
        start_code: VirtAddr(0x40_0000),
        end_code: VirtAddr(0x40_1155),
        start_data: VirtAddr(0x40_3db0),
        end_data: VirtAddr(0x40_4018),
        start_stack: VirtAddr(0x7ffe_0002_0d50),
        start_brk: VirtAddr(0x1000_0000),
        brk: VirtAddr(0x1002_1000),
        arg_start: VirtAddr(0x7ffe_0002_08f3),
        arg_end: VirtAddr(0x7ffe_0002_0924),
        env_start: VirtAddr(0x7ffe_0002_0924),
        env_end: VirtAddr(0x7ffe_0002_0fcf),
        auxv: vec![33, 0x7fff_0000_2000, 51, 3376, 0, 0],
        exe: FileId(20),
        guards: vec![PageRange::from_addrs(VirtAddr(0x1000), VirtAddr(0x3000)).expect("a range")],
        vmas: vec![
            vma(0x40_0000, 0x40_2000, 5, file(false, 0)),
            heap,
            vma(0x7f00_0000_0000, 0x7f00_0000_1000, 1, file(true, 2)),
            vma(0x7f00_0000_1000, 0x7f00_0000_9000, 3, memfd(23, true)),
            vma(0x7f00_0000_9000, 0x7f00_0000_a000, 3, memfd(10, false)),
            vma(0x7f00_0040_0000, 0x7f00_0080_0000, 3, huge),
            vma(
                0x7ffd_0000_0000,
                0x7ffd_0000_2000,
                1,
                VmaKind::SysV { shared: SharedId(98_304), offset: 4096, access: 2 },
            ),
            stack,
            vma(0x7fff_0000_0000, 0x7fff_0000_2000, 1, VmaKind::Vvar),
            vma(0x7fff_0000_2000, 0x7fff_0000_4000, 5, VmaKind::Vdso),
            vma(0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000, 4, VmaKind::Vsyscall),
        ],
        dumpable: 1,
        thp_disabled: false,
    }
}
