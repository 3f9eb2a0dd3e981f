//! Huge pages: are as many free here as the tree needs, and is there a place for files of them?

use std::fs;
use std::path::Path;

use image::plan::{Plan, Refusal, huge_file_of, huge_pages_of};
use image::state::HugeSize;

use super::HERE;

/// Documentation/admin-guide/mm/hugetlbpage.rst.
const SIZES: &str = "/sys/kernel/mm/hugepages";

pub(super) fn check(plan: &Plan, refusals: &mut Vec<Refusal>) {
    check_in(Path::new(SIZES), plan, refusals);
}

fn check_in(sizes: &Path, plan: &Plan, refusals: &mut Vec<Refusal>) {
    for (size, wanted) in plan.needs.iter().filter_map(|need| huge_pages_of(need)) {
        let object = format!("{wanted} huge pages of {size}");
        let refusal = match free(sizes, size) {
            None => Refusal::new(object, HERE, "this kernel has no pages of that size"),
            Some(free) if free < wanted => {
                Refusal::new(object, HERE, format!("{free} are free")).hint("raise vm.nr_hugepages")
            }
            Some(_) => continue,
        };
        refusals.push(refusal);
    }
    for (size, path) in plan.needs.iter().filter_map(|need| huge_file_of(need)) {
        let folder = Path::new(path).parent().unwrap_or_else(|| Path::new("/"));
        if crate::build::huge_size_of(folder) != Some(size) {
            let reason = format!("{} is no hugetlbfs with pages of {size}", folder.display());
            let hint = "mount one there: `mount -t hugetlbfs -o pagesize=SIZE none FOLDER`";
            refusals.push(Refusal::new(path, HERE, reason).hint(hint));
        }
    }
}

/// How many pages can be had: those that nobody has or was promised, and those that the kernel may
/// make beyond (vm.nr_overcommit_hugepages).
fn free(sizes: &Path, size: HugeSize) -> Option<u64> {
    let folder = sizes.join(format!("hugepages-{}kB", size.bytes() >> 10));
    let number =
        |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let idle = number("free_hugepages")?.saturating_sub(number("resv_hugepages")?);
    let more = number("nr_overcommit_hugepages")?.saturating_sub(number("surplus_hugepages")?);
    Some(idle.saturating_add(more))
}

#[cfg(test)]
mod tests {
    use image::plan::{huge_file, huge_pages};

    use super::*;
    use crate::check::tests::easy;

    #[test]
    fn what_is_promised_is_not_free() {
        let sizes = tempfile::tempdir().expect("a directory");
        let folder = sizes.path().join("hugepages-2048kB");
        fs::create_dir(&folder).expect("a directory");
        for (name, number) in [
            ("free_hugepages", 9),
            ("resv_hugepages", 4),
            ("nr_overcommit_hugepages", 3),
            ("surplus_hugepages", 1),
        ] {
            fs::write(folder.join(name), format!("{number}\n")).expect("a file");
        }
        let two = HugeSize::of_bytes(2 << 20).expect("2 MiB");
        let refused = |size, count| {
            let mut plan = easy();
            plan.needs = vec![huge_pages(size, count)];
            let mut refusals = Vec::new();
            check_in(sizes.path(), &plan, &mut refusals);
            refusals.first().map(|refusal| refusal.reason.clone())
        };
        assert_eq!(refused(two, 7), None);
        assert_eq!(refused(two, 8).as_deref(), Some("7 are free"));
        let other = HugeSize::of_bytes(1 << 30).expect("1 GiB");
        assert_eq!(refused(other, 1).as_deref(), Some("this kernel has no pages of that size"));
        let mut plan = easy();
        plan.needs = vec![huge_file(two, "/proc/self/file")];
        let mut refusals = Vec::new();
        check_in(sizes.path(), &plan, &mut refusals);
        assert_eq!((refusals[0].object.as_str(), refusals.len()), ("/proc/self/file", 1));
        let reason = "/proc/self is no hugetlbfs with pages of 2048 kB";
        assert_eq!(refusals[0].reason, reason);
    }
}
