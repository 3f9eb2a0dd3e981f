//! Registers: general, extended, and what an interrupted system call leaves in them.

use std::sync::OnceLock;

use nix::errno::Errno;

use crate::{Error, HostPid, Result, sys};

/// `struct user_regs_struct` of x86-64 (linux, sys/user.h), field for field.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the processor manual names them
pub struct Regs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The number of the system call being left, or -1.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

impl Regs {
    /// `__USER_CS`: the code segment of 64-bit programs.
    pub(crate) const USER_CS: u64 = 0x33;
    /// What `orig_rax` says outside a system call. While calls are injected it must be this, or
    /// the kernel takes *our* registers for those of the call it interrupted.
    pub const NO_CALL: u64 = u64::MAX;
}

/// Processor state beyond the general registers, free of any one CPU's memory layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XState {
    /// The FXSAVE area: x87, MMX, SSE, MXCSR.
    pub legacy: [u8; 512],
    /// XSTATE_BV: which components are not in their initial state.
    pub in_use: u64,
    /// Every component from 2 up that the CPU has enabled, ascending: number and bytes.
    pub components: Vec<(u8, Vec<u8>)>,
}

/// Where this CPU puts each component in the standard format of the XSAVE area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XsaveLayout {
    features: u64,
    size: u32,
    /// Number, offset, size; ascending by number.
    components: Vec<(u8, usize, usize)>,
}

/// FXSAVE area and XSAVE header: where component 2 may begin at the earliest.
const EXTENDED: usize = 576;
/// XSTATE_BV is the first word of the header.
const HEADER: usize = 512;
/// x87 and SSE live in the legacy area.
const LEGACY: u64 = 0b11;

impl XsaveLayout {
    /// Asks CPUID leaf 0xD about every component in XCR0.
    pub fn of_this_cpu() -> Self {
        let features = sys::cpu::xcr0();
        let components: Vec<_> = (2..63_u8)
            .filter(|number| features & (1 << number) != 0)
            .map(|number| {
                let (size, offset) = sys::cpu::component(number);
                (number, offset as usize, size as usize)
            })
            .filter(|(_, offset, size)| *offset >= EXTENDED && *size > 0)
            .collect();
        let end = components.iter().map(|(_, offset, size)| offset + size).max();
        let size = u32::try_from(end.unwrap_or(EXTENDED)).expect("CPUID gave 32 bits each");
        Self { features, size, components }
    }

    /// The same, asked once: in a virtual machine each CPUID is a trip to the hypervisor.
    pub(crate) fn cached() -> &'static Self {
        static LAYOUT: OnceLock<XsaveLayout> = OnceLock::new();
        LAYOUT.get_or_init(Self::of_this_cpu)
    }

    /// XCR0.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Bytes of the whole area.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Takes the kernel's area (which may be shorter than ours if it knows less) apart.
    pub(crate) fn take_apart(&self, area: &[u8]) -> XState {
        let mut legacy = [0; 512];
        let have = area.len().min(512);
        legacy[..have].copy_from_slice(&area[..have]);
        let in_use = area
            .get(HEADER..HEADER + 8)
            .map_or(LEGACY, |word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        let components = self
            .components
            .iter()
            .filter_map(|(number, offset, size)| {
                Some((*number, area.get(*offset..offset + size)?.to_vec()))
            })
            .collect();
        XState { legacy, in_use, components }
    }

    /// Puts an area for the kernel together. A component in use that is not here, or that has
    /// another size here, is an error; one not in use is left out.
    pub(crate) fn put_together(&self, state: &XState) -> Result<Vec<u8>> {
        let mut area = vec![0; self.size as usize];
        area[..512].copy_from_slice(&state.legacy);
        let given = |number| state.components.iter().find(|(have, _)| *have == number);
        let mut in_use = state.in_use & LEGACY;
        for number in (2..64_u8).filter(|number| state.in_use & (1 << number) != 0) {
            let bytes = given(number).map_or(&[][..], |(_, bytes)| bytes);
            let here = self.components.iter().find(|(have, ..)| *have == number);
            let (offset, size) = here.map_or((0, 0), |(_, offset, size)| (*offset, *size));
            if size == 0 || bytes.len() != size {
                let (given, here) = (bytes.len(), size);
                return Err(Error::XComponent { component: number, given, here });
            }
            area[offset..offset + size].copy_from_slice(bytes);
            in_use |= 1 << number;
        }
        area[HEADER..HEADER + 8].copy_from_slice(&in_use.to_le_bytes());
        Ok(area)
    }

    pub(crate) fn read(&self, tid: HostPid) -> Result<XState> {
        let mut area = vec![0; self.size as usize];
        let len = sys::ptrace::xstate(tid.0, &mut area)
            .map_err(Error::os("read the extended registers of", tid))?;
        Ok(self.take_apart(&area[..len.min(area.len())]))
    }

    pub(crate) fn write(&self, tid: HostPid, state: &XState) -> Result<()> {
        sys::ptrace::set_xstate(tid.0, &self.put_together(state)?)
            .map_err(Error::os("set the extended registers of", tid))
    }
}

/// What a stop did to the system call the thread was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// The thread was not inside a system call that the stop cut short.
    Not,
    /// It was in one that the kernel makes again by itself (ERESTARTSYS, ERESTARTNOINTR).
    Restart {
        /// Its number.
        nr: i64,
    },
    /// The same, but a signal with a handler would end it with EINTR (ERESTARTNOHAND).
    NoHand {
        /// Its number.
        nr: i64,
    },
    /// A relative timed wait (nanosleep, poll, futex): the kernel alone knows how much was left
    /// (ERESTART_RESTARTBLOCK). Made again from the registers, it waits its full length.
    RestartBlock {
        /// Its number; 219 (restart_syscall) if it had been interrupted before.
        nr: i64,
    },
    /// The call gave EINTR although no handler ran: it must be made again, or the program sees an
    /// interruption that was ours.
    LeakedEintr {
        /// Its number.
        nr: i64,
    },
}

/// Registers with which an interrupted call is simply made again, and what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WoundBack {
    /// What to run with; the same as before if there was nothing to wind back.
    pub regs: Regs,
    /// What had happened.
    pub was: Interrupted,
}

/// The kernel's own restart codes (linux/errno.h); programs never see them.
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;

/// Calls that give EINTR when a stop wakes them, having done nothing yet, so that making them again
/// is right (signal(7), "Interruption of system calls … by stop signals"; with the socket calls this
/// happens under SO_RCVTIMEO or SO_SNDTIMEO).
const LEAKY: [libc::c_long; 26] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    SYS_EPOLL_PWAIT2,
    libc::SYS_io_uring_enter,
];
/// epoll_pwait2(2), Linux 5.11.
const SYS_EPOLL_PWAIT2: libc::c_long = 441;

/// What the registers of a thread in ptrace-stop must be so that the system call it was in is simply
/// made again: two bytes back (the `syscall` instruction), the number in `rax`, no call in progress.
///
/// Only right if no signal handler is about to run. For a thread that stays on this kernel, the
/// registers as they are do better wherever the kernel restarts the call itself: it alone knows how
/// much of a timed wait was left. Leaked EINTR is to be wound back here and there.
pub fn wound_back(regs: &Regs) -> WoundBack {
    let nr = regs.orig_rax.cast_signed();
    let was = if nr < 0 {
        Interrupted::Not
    } else {
        match regs.rax.cast_signed() {
            ERESTARTSYS | ERESTARTNOINTR => Interrupted::Restart { nr },
            ERESTARTNOHAND => Interrupted::NoHand { nr },
            ERESTART_RESTARTBLOCK => Interrupted::RestartBlock { nr },
            code if code == -(Errno::EINTR as i64) && LEAKY.contains(&nr) => {
                Interrupted::LeakedEintr { nr }
            }
            _ => Interrupted::Not,
        }
    };
    let regs = match was {
        Interrupted::Not => *regs,
        _ => Regs {
            rip: regs.rip.wrapping_sub(2),
            rax: regs.orig_rax,
            orig_rax: Regs::NO_CALL,
            ..*regs
        },
    };
    WoundBack { regs, was }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(nr: i64, rax: i64) -> Regs {
        Regs {
            orig_rax: nr.cast_unsigned(),
            rax: rax.cast_unsigned(),
            rip: 0x1002,
            rdi: 7,
            ..Regs::default()
        }
    }

    #[test]
    fn every_kind_of_interrupted_call_is_wound_back_or_left_alone() {
        let table = [
            (0, -512, Interrupted::Restart { nr: 0 }),
            (2, -513, Interrupted::Restart { nr: 2 }),
            (271, -514, Interrupted::NoHand { nr: 271 }),
            (35, -516, Interrupted::RestartBlock { nr: 35 }),
            (219, -516, Interrupted::RestartBlock { nr: 219 }),
            (232, -4, Interrupted::LeakedEintr { nr: 232 }),
            (281, -4, Interrupted::LeakedEintr { nr: 281 }),
            (441, -4, Interrupted::LeakedEintr { nr: 441 }),
            (220, -4, Interrupted::LeakedEintr { nr: 220 }),
            (128, -4, Interrupted::LeakedEintr { nr: 128 }),
            (0, -4, Interrupted::LeakedEintr { nr: 0 }),
            // close(2) must never be made again, connect(2) goes on in the background.
            (3, -4, Interrupted::Not),
            (42, -4, Interrupted::Not),
            (0, 100, Interrupted::Not),
            (0, -11, Interrupted::Not),
            // A handler ran and returned: orig_rax is gone, the EINTR is real.
            (-1, -4, Interrupted::Not),
            (-1, -512, Interrupted::Not),
        ];
        for (nr, rax, was) in table {
            let before = after(nr, rax);
            let wound = wound_back(&before);
            assert_eq!(wound.was, was, "call {nr} with {rax}");
            if was == Interrupted::Not {
                assert_eq!(wound.regs, before);
            } else {
                let again =
                    Regs { rip: 0x1000, rax: nr.cast_unsigned(), orig_rax: u64::MAX, ..before };
                assert_eq!(wound.regs, again);
            }
        }
    }

    fn state(in_use: u64, components: Vec<(u8, Vec<u8>)>) -> XState {
        XState { legacy: [3; 512], in_use, components }
    }

    #[test]
    fn xstate_survives_another_layout_of_the_same_components() {
        let narrow = XsaveLayout { features: 0b111, size: 832, components: vec![(2, 576, 256)] };
        let wide = XsaveLayout {
            features: 0x207,
            size: 1096,
            components: vec![(2, 832, 256), (9, 1088, 8)],
        };
        let given = state(0b111, vec![(2, vec![9; 256])]);
        let back = wide.take_apart(&wide.put_together(&given).expect("known components"));
        assert_eq!(back.components, [(2, vec![9; 256]), (9, vec![0; 8])]);
        assert_eq!((back.in_use, back.legacy), (0b111, [3; 512]));
        let again = narrow.put_together(&back).expect("9 is not in use");
        assert_eq!(narrow.take_apart(&again), given);
    }

    #[test]
    fn a_component_in_use_that_is_not_here_is_refused_by_number() {
        let layout = XsaveLayout { features: 0b111, size: 832, components: vec![(2, 576, 256)] };
        let missing = layout.put_together(&state(1 << 9, vec![(9, vec![1; 8])]));
        assert!(matches!(missing, Err(Error::XComponent { component: 9, here: 0, given: 8 })));
        let other_size = layout.put_together(&state(1 << 2, vec![(2, vec![1; 8])]));
        assert!(matches!(other_size, Err(Error::XComponent { component: 2, here: 256, .. })));
        let lost = layout.put_together(&state(1 << 2, vec![]));
        assert!(matches!(lost, Err(Error::XComponent { component: 2, given: 0, .. })));
    }
}
