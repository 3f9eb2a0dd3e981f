//! Descriptors that this process was started with.

use std::sync::Once;

/// Closes every descriptor above standard error that a program started from here would inherit.
///
/// Rust marks whatever it opens close-on-exec, so what is left comes from whoever started us (a
/// build tool's job pipe, a terminal multiplexer's). A subject that held one of these would share a
/// pipe with a process outside of its tree, and no such tree can move.
pub(crate) fn close() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
        let numbers: Vec<i32> =
            open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        for number in numbers.into_iter().filter(|number| *number > 2 && survives_exec(*number)) {
            let _ = nix::unistd::close(number);
        }
    });
}

/// By its flags in fdinfo, in octal (proc_pid_fdinfo(5)); false if it is gone already.
fn survives_exec(number: i32) -> bool {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & CLOSE_ON_EXEC == 0)
}
