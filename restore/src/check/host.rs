//! Processor, kernel, rights and limits.

use image::plan::{
    CONTAINER, CRIU, HUGE_FILE, HUGE_PAGES, INTERFACE, Plan, Refusal, SYSTEM_V_IPC, TCP_ESTABLISHED,
};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::utsname::uname;
use nix::unistd::{getpid, gettid};
use pages::PAGE_SIZE;
use tracee::proc::status::Status;
use tracee::{HostPid, XsaveLayout};

use super::{HERE, report, vdso};
use crate::skeleton::BuildOptions;

/// CAP_SYS_RESOURCE, capabilities(7).
const SYS_RESOURCE: u32 = 24;

/// Names of the RLIMIT_* by number, getrlimit(2).
const LIMITS: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// Names of XSAVE components, by number (Intel SDM volume 1, 13.1).
const COMPONENTS: [&str; 19] = [
    "x87",
    "SSE",
    "AVX",
    "MPX bound registers",
    "MPX bound status",
    "AVX-512 masks",
    "AVX-512 upper halves",
    "AVX-512 upper registers",
    "processor trace",
    "protection keys",
    "PASID",
    "CET user",
    "CET supervisor",
    "HDC",
    "user interrupts",
    "LBR",
    "HWP",
    "AMX tile config",
    "AMX tile data",
];

/// Why a container is refused where none is waited for, and what to do.
pub(super) const WANTS_RUNTIME: (&str, &str) =
    ("nobody here said what it shall become", "start `qmig restore --runc ID --bundle DIR` here");

pub(super) fn check(plan: &Plan, options: BuildOptions, refusals: &mut Vec<Refusal>) {
    processor(plan, refusals);
    terminal(plan, options, refusals);
    limits(plan, refusals);
    rights(refusals);
}

/// What the native engine asks beyond that.
pub(super) fn check_native(plan: &Plan, refusals: &mut Vec<Refusal>) {
    let here = vdso::of_this_kernel();
    if plan.vdso.is_empty() || here.as_ref() != Some(&plan.vdso) {
        let kernel = format!("made for kernel {}, and this kernel's is another", plan.kernel);
        let hint = "run the same kernel build on both hosts";
        refusals.push(Refusal::new("[vdso]", HERE, kernel).hint(hint));
    }
    let known = |need: &str| {
        let named = [INTERFACE, HUGE_FILE, HUGE_PAGES].iter().any(|kind| need.starts_with(kind));
        named || [TCP_ESTABLISHED, SYSTEM_V_IPC].contains(&need)
    };
    for need in plan.needs.iter().filter(|need| !known(need)) {
        let (reason, hint) = match need.as_str() {
            CRIU => ("only a stock CRIU can restore it", "use `--engine criu` here too"),
            CONTAINER => WANTS_RUNTIME,
            _ => ("this qmig does not know it", "run the same version of qmig on both hosts"),
        };
        refusals.push(Refusal::new(need, HERE, reason).hint(hint));
    }
}

fn processor(plan: &Plan, refusals: &mut Vec<Refusal>) {
    let machine = uname().map(|names| names.machine().to_string_lossy().into_owned());
    let machine = machine.unwrap_or_default();
    if plan.architecture != machine {
        let reason = format!("this host is {machine}");
        refusals.push(Refusal::new(&plan.architecture, HERE, reason));
    }
    if plan.page_size as usize != PAGE_SIZE {
        let object = format!("pages of {} bytes", plan.page_size);
        refusals.push(Refusal::new(object, HERE, format!("this host has pages of {PAGE_SIZE}")));
    }
    let missing = plan.cpu.features & !XsaveLayout::of_this_cpu().features();
    for number in (0..64).filter(|number| missing & (1 << number) != 0) {
        let name = COMPONENTS.get(number).copied();
        let object = name.map_or_else(
            || format!("processor state component {number}"),
            |name| format!("processor state {name}"),
        );
        let reason = "this processor (or its hypervisor) does not have it";
        let hint = "give both hosts the same processor model";
        refusals.push(Refusal::new(object, HERE, reason).hint(hint));
    }
}

fn terminal(plan: &Plan, options: BuildOptions, refusals: &mut Vec<Refusal>) {
    let have_one = nix::unistd::isatty(std::io::stdin()) == Ok(true)
        || nix::unistd::isatty(std::io::stdout()) == Ok(true)
        || nix::unistd::isatty(std::io::stderr()) == Ok(true);
    let refusal = match (plan.shell_job, options.shell_job, have_one) {
        (true, false, _) => Refusal::new("terminal", HERE, "the program stands on a terminal")
            .hint("start qmig restore on a terminal with --shell-job"),
        (true, true, false) => {
            Refusal::new("terminal", HERE, "qmig restore was not started on a terminal")
                .hint("start it on one, or without --shell-job for a program that needs none")
        }
        _ => return,
    };
    refusals.push(refusal);
}

fn limits(plan: &Plan, refusals: &mut Vec<Refusal>) {
    let me = HostPid(getpid().as_raw());
    let may_raise = has_capability(SYS_RESOURCE);
    let ours = tracee::host::rlimits(me).unwrap_or([(0, 0); 16]);
    for ((name, wanted), (_, hard)) in LIMITS.iter().zip(plan.hard_limits).zip(ours) {
        if wanted > hard && !may_raise {
            let object = format!("RLIMIT_{name} of {}", limit(wanted));
            let reason = format!("qmig restore itself may have {}", limit(hard));
            let hint = "start it with higher hard limits, or with CAP_SYS_RESOURCE";
            refusals.push(Refusal::new(object, HERE, reason).hint(hint));
        }
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    if u64::from(plan.highest_fd).saturating_add(1) >= most {
        let object = format!("descriptor {}", plan.highest_fd);
        let reason = format!("qmig restore itself may open {most}");
        refusals.push(Refusal::new(object, HERE, reason).hint("raise its RLIMIT_NOFILE"));
    }
}

fn limit(value: u64) -> String {
    if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() }
}

/// What no tree can be built without.
fn rights(refusals: &mut Vec<Refusal>) {
    for item in report::needed().into_iter().filter(|item| !item.ok) {
        let refusal = Refusal::new(item.feature, HERE, item.why);
        refusals.push(match item.change {
            Some(change) => refusal.hint(change),
            None => refusal,
        });
    }
}

/// True if this thread has capability `number` in effect.
pub(super) fn has_capability(number: u32) -> bool {
    let status = Status::read(HostPid(gettid().as_raw()));
    status.is_ok_and(|status| status.cap_effective & (1 << number) != 0)
}

const _: () = assert!(libc::RLIMIT_RTTIME as usize == LIMITS.len() - 1);
