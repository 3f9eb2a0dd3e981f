//! Can this host carry the plan? Answered, with every reason by name, before anything is touched.
//!
//! A yes is no promise: what is true now may change before the tree is built, and what only the
//! checkpoint knows (credentials, the shape of sessions) is found out while building. Then building
//! fails, and nothing of the tree is left here.

pub(crate) mod container;
mod files;
mod host;
mod huge;
mod ids;
mod network;
mod report;
pub(crate) mod vdso;

use image::plan::{CONTAINER, CRIU, HUGE_PAGES, Plan, Refusal};

use crate::skeleton::BuildOptions;
pub use report::{Item, host_report};

/// The place a refusal is about when it is about the whole host.
pub(crate) const HERE: &str = "this host";

/// Every reason why this host cannot carry `plan`.
pub fn check(plan: &Plan, options: BuildOptions) -> Result<(), Vec<Refusal>> {
    // Without root nothing else can be told for sure.
    if !nix::unistd::geteuid().is_root() {
        let refusal = Refusal::new("root", HERE, "qmig restore does not run as user 0");
        return Err(vec![refusal.hint("run it as root")]);
    }
    let mut refusals = Vec::new();
    host::check(plan, options, &mut refusals);
    host::check_native(plan, &mut refusals);
    huge::check(plan, &mut refusals);
    ids::check(plan, options, &mut refusals);
    files::check(plan, options, &mut refusals);
    network::check(plan, options, &mut refusals);
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// Every reason why a stock CRIU of this host cannot carry `plan`. It brings its own vdso along, and
/// knows itself what it can restore.
pub(crate) fn check_for_criu(plan: &Plan) -> Result<(), Vec<Refusal>> {
    let options = BuildOptions::default();
    let mut refusals = Vec::new();
    let known = |need: &str| need == CRIU || need.starts_with(HUGE_PAGES);
    huge::check(plan, &mut refusals);
    for need in plan.needs.iter().filter(|need| !known(need)) {
        let (reason, hint) = match need.as_str() {
            CONTAINER => host::WANTS_RUNTIME,
            _ => ("a stock CRIU does not know it", "use `--engine native` here"),
        };
        refusals.push(Refusal::new(need, HERE, reason).hint(hint));
    }
    host::check(plan, options, &mut refusals);
    ids::check(plan, options, &mut refusals);
    files::check(plan, options, &mut refusals);
    network::check(plan, options, &mut refusals);
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// Every reason why this host cannot carry `plan` whoever restores it. Whoever it is knows the rest.
pub(crate) fn check_the_host(plan: &Plan) -> Result<(), Vec<Refusal>> {
    let mut refusals = Vec::new();
    host::check(plan, BuildOptions::default(), &mut refusals);
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

#[cfg(test)]
pub(crate) mod tests {
    use image::plan::{Cpu, PlannedTask};
    use pages::{ByteCount, TaskId};

    use super::*;

    /// What this host certainly carries.
    pub(crate) fn easy() -> Plan {
        let host = nix::sys::utsname::uname().expect("uname");
        Plan {
            qmig_version: "0".into(),
            kernel: String::new(),
            architecture: host.machine().to_string_lossy().into_owned(),
            page_size: 4096,
            hostname: String::new(),
            cpu: Cpu::default(),
            vdso: vdso::of_this_kernel().expect("a vdso"),
            root: TaskId(1),
            command: "easy".into(),
            tasks: Vec::new(),
            files: Vec::new(),
            listeners: Vec::new(),
            unix_names: Vec::new(),
            hard_limits: [0; 16],
            highest_fd: 3,
            resident: ByteCount(0),
            ghosts: ByteCount(0),
            shell_job: false,
            needs: Vec::new(),
        }
    }

    #[test]
    fn every_reason_is_told_at_once() {
        if !nix::unistd::geteuid().is_root() {
            let refusals = check(&easy(), BuildOptions::default()).expect_err("not root");
            assert_eq!(refusals[0].object, "root");
            return;
        }
        let mut plan = easy();
        plan.architecture = "vax".into();
        plan.page_size = 512;
        plan.cpu.features = 1 << 62;
        plan.vdso = vec![1, 2, 3];
        plan.needs = vec!["mind reading".into()];
        plan.highest_fd = u32::MAX;
        plan.shell_job = true;
        plan.tasks = vec![PlannedTask {
            id: TaskId(1),
            parent: None,
            comm: "init".into(),
            threads: vec![TaskId(1)],
        }];
        let refusals = check(&plan, BuildOptions::default()).expect_err("much");
        let objects: Vec<&str> = refusals.iter().map(|refusal| refusal.object.as_str()).collect();
        for object in [
            "vax",
            "pages of 512 bytes",
            "processor state component 62",
            "[vdso]",
            "mind reading",
            "descriptor 4294967295",
            "terminal",
            "pid 1",
        ] {
            assert!(objects.contains(&object), "{object} is missing from {objects:?}");
        }
    }

    #[test]
    fn what_this_host_has_is_accepted() {
        if nix::unistd::geteuid().is_root() {
            assert_eq!(check(&easy(), BuildOptions::default()), Ok(()));
        }
    }
}
