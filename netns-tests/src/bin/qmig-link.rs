//! The emulated link between two hosts; see `netns_tests::link`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    netns_tests::link::link_main(std::env::args().skip(1))
}
