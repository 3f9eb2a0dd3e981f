//! What was measured on.

use std::process::Command;

use crate::Outcome;

/// Machine, date and commit, as the head of the report.
pub(crate) fn describe() -> Outcome<String> {
    let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name);
    let cores = std::thread::available_parallelism()?;
    let memory = field("/proc/meminfo", "MemTotal:")? / 1024;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let (date, commit) =
        (line("date", &["+%Y-%m-%d"]), line("git", &["rev-parse", "--short", "HEAD"]));
    Ok(format!(
        "Measured {date} at commit {commit} on a virtual machine: {model}, {cores} cores, \
         {memory} MiB, Linux {}, load average {load} at the start. Two hosts of namespaces on it, \
         one link (MTU 1500 unless said otherwise) between them, so both sides share the cores.\n",
        kernel.trim()
    ))
}

/// A number of kB in a file of /proc.
pub(crate) fn field(path: &str, name: &str) -> Outcome<u64> {
    let text = std::fs::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    Ok(value.ok_or_else(|| format!("find {name} in {path}"))?.parse()?)
}

fn line(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}
