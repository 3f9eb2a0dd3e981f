//! Process 1 of a test host; see `netns_tests::init_main`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    netns_tests::init_main(std::env::args_os().skip(1))
}
