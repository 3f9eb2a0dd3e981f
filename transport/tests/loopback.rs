//! Two real endpoints on 127.0.0.1. Nothing sleeps: each wait is for an event, with a deadline.

#[path = "loopback/compressed.rs"]
mod compressed;
#[path = "loopback/conversation.rs"]
mod conversation;
#[path = "loopback/credit.rs"]
mod credit;
#[path = "loopback/hostile.rs"]
mod hostile;
#[path = "loopback/moving.rs"]
mod moving;
#[path = "loopback/probe.rs"]
mod probe;
#[path = "loopback/runs.rs"]
mod runs;
#[path = "loopback/second.rs"]
mod second;
#[path = "loopback/support.rs"]
mod support;
#[path = "loopback/trust.rs"]
mod trust;
