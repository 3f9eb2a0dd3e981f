//! General, floating point and vector registers.

use crate::error::BadField;
use crate::messages::{
    RegsMode, UserDesc, UserX86FpregsEntry, UserX86RegsEntry, UserX86XsaveEntry,
    XsaveComponentEntry,
};
use crate::state::{FpState, Regs, XComponent};

macro_rules! same_names {
    ($($name:ident)*) => {
        impl From<&Regs> for UserX86RegsEntry {
            fn from(regs: &Regs) -> Self {
                Self { $($name: regs.$name,)* mode: Some(RegsMode::Native as i32) }
            }
        }

        impl TryFrom<&UserX86RegsEntry> for Regs {
            type Error = BadField;

            fn try_from(entry: &UserX86RegsEntry) -> Result<Self, BadField> {
                if entry.mode() != RegsMode::Native {
                    return Err(BadField::unsupported("thread_info.gpregs.mode", "32-bit code"));
                }
                Ok(Self { $($name: entry.$name,)* })
            }
        }
    };
}

same_names! {
    r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss fs_base gs_base
    ds es fs gs
}

/// Three descriptors of set_thread_area(2), all absent, as 64-bit code has them.
pub(super) fn no_descriptors() -> Vec<UserDesc> {
    let absent = |entry_number| UserDesc {
        entry_number,
        read_exec_only: true,
        seg_not_present: true,
        ..UserDesc::default()
    };
    (12..=14).map(absent).collect()
}

const FIELD: &str = "thread_info.fpregs";
/// Where the FXSAVE area ends for CRIU; what follows is reserved.
const RESERVED: usize = 416;
/// x87 and SSE are in the legacy area.
const LEGACY_BITS: u64 = 3;

/// Components that CRIU has an array for: (number, bytes).
const KNOWN: [(u8, usize); 7] = [(2, 256), (3, 64), (4, 64), (5, 64), (6, 512), (7, 1024), (9, 8)];

fn is_known(component: &XComponent) -> bool {
    KNOWN.contains(&(component.number, component.bytes.len()))
}

impl From<&FpState> for UserX86FpregsEntry {
    fn from(state: &FpState) -> Self {
        let area = &*state.legacy;
        let half = |at: usize| u32::from(u16::from_le_bytes([area[at], area[at + 1]]));
        let reserved = &area[RESERVED..];
        Self {
            cwd: half(0),
            swd: half(2),
            twd: half(4),
            fop: half(6),
            rip: longs(&area[8..16])[0],
            rdp: longs(&area[16..24])[0],
            mxcsr: words(&area[24..28])[0],
            mxcsr_mask: words(&area[28..32])[0],
            st_space: words(&area[32..160]),
            xmm_space: words(&area[160..RESERVED]),
            padding: Vec::new(),
            xsave: Some(xsave(state)),
            reserved: reserved.iter().any(|byte| *byte != 0).then(|| reserved.to_vec()),
        }
    }
}

fn xsave(state: &FpState) -> UserX86XsaveEntry {
    let component = |number| {
        let is_it = |it: &&XComponent| it.number == number && is_known(it);
        state.components.iter().find(is_it).map(|it| it.bytes.as_slice()).unwrap_or_default()
    };
    let other = |it: &XComponent| XsaveComponentEntry {
        number: u32::from(it.number),
        bytes: it.bytes.clone(),
    };
    let known = state.components.iter().filter(|it| is_known(it));
    let xstate_bv = state.in_use & known.fold(LEGACY_BITS, |mask, it| mask | 1 << it.number);
    UserX86XsaveEntry {
        xstate_bv,
        ymmh_space: words(component(2)),
        bndreg_state: longs(component(3)),
        bndcsr_state: longs(component(4)),
        opmask_reg: longs(component(5)),
        zmm_upper: longs(component(6)),
        hi16_zmm: longs(component(7)),
        pkru: words(component(9)),
        cet: None,
        components: state.components.iter().filter(|it| !is_known(it)).map(other).collect(),
        in_use: (xstate_bv != state.in_use).then_some(state.in_use),
    }
}

impl TryFrom<&UserX86FpregsEntry> for FpState {
    type Error = BadField;

    fn try_from(entry: &UserX86FpregsEntry) -> Result<Self, BadField> {
        let mut area = Vec::with_capacity(512);
        for half in [entry.cwd, entry.swd, entry.twd, entry.fop] {
            let half = u16::try_from(half).map_err(|_| BadField::value(FIELD, half, "16 bits"))?;
            area.extend(half.to_le_bytes());
        }
        area.extend(entry.rip.to_le_bytes());
        area.extend(entry.rdp.to_le_bytes());
        area.extend(entry.mxcsr.to_le_bytes());
        area.extend(entry.mxcsr_mask.to_le_bytes());
        area.extend(exactly("thread_info.fpregs.st_space", bytes(&entry.st_space), 128)?);
        area.extend(exactly("thread_info.fpregs.xmm_space", bytes(&entry.xmm_space), 256)?);
        match &entry.reserved {
            Some(rest) => {
                let field = "thread_info.fpregs.reserved";
                area.extend(exactly(field, rest.clone(), 512 - RESERVED)?);
            }
            None => area.resize(512, 0),
        }
        let legacy = Box::<[u8; 512]>::try_from(area.into_boxed_slice())
            .map_err(|area| BadField::count(FIELD, area.len(), "512 bytes"))?;
        let (in_use, components) = match &entry.xsave {
            Some(xsave) => (xsave.in_use.unwrap_or(xsave.xstate_bv), components(xsave)?),
            None => (LEGACY_BITS, Vec::new()),
        };
        Ok(Self { legacy, in_use, components })
    }
}

fn components(xsave: &UserX86XsaveEntry) -> Result<Vec<XComponent>, BadField> {
    if xsave.cet.as_ref().is_some_and(|cet| cet.cet != 0 || cet.ssp != 0) {
        return Err(BadField::unsupported("thread_info.fpregs.xsave.cet", "a shadow stack"));
    }
    let arrays = [
        (2, bytes(&xsave.ymmh_space)),
        (3, long_bytes(&xsave.bndreg_state)),
        (4, long_bytes(&xsave.bndcsr_state)),
        (5, long_bytes(&xsave.opmask_reg)),
        (6, long_bytes(&xsave.zmm_upper)),
        (7, long_bytes(&xsave.hi16_zmm)),
        (9, bytes(&xsave.pkru)),
    ];
    let mut components = Vec::new();
    for (number, bytes) in arrays {
        let component = XComponent { number, bytes };
        if component.bytes.is_empty() {
            continue;
        }
        if !is_known(&component) {
            let got = component.bytes.len();
            return Err(BadField::count("thread_info.fpregs.xsave", got, "a whole component"));
        }
        components.push(component);
    }
    for entry in &xsave.components {
        let field = "thread_info.fpregs.xsave.components";
        let number = match u8::try_from(entry.number) {
            Ok(number @ 2..=62) => number,
            _ => return Err(BadField::value(field, entry.number, "a component, 2 to 62")),
        };
        if entry.bytes.is_empty() || entry.bytes.len() > 16 << 10 {
            return Err(BadField::count(field, entry.bytes.len(), "1 to 16384 bytes"));
        }
        components.push(XComponent { number, bytes: entry.bytes.clone() });
    }
    components.sort_by_key(|component| component.number);
    match components.windows(2).find(|pair| pair[0].number == pair[1].number) {
        Some(pair) => {
            Err(BadField::twice("thread_info.fpregs.xsave", "component", u64::from(pair[0].number)))
        }
        None => Ok(components),
    }
}

fn exactly(field: &'static str, bytes: Vec<u8>, length: usize) -> Result<Vec<u8>, BadField> {
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err(BadField::count(field, bytes.len(), "the bytes of the FXSAVE area"))
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let word = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
    bytes.chunks_exact(4).map(word).collect()
}

fn longs(bytes: &[u8]) -> Vec<u64> {
    let pair = |two: &[u32]| u64::from(two[0]) | u64::from(two[1]) << 32;
    words(bytes).chunks_exact(2).map(pair).collect()
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn long_bytes(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_le_bytes()).collect()
}
