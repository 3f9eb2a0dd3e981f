//! Whoever dies: nobody ever finds zeros where a page is owed.
//!
//! The holder, which is to be killed, and the keeper are this very program again, running one of the
//! "tests" below by name.

mod common;

use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};

use common::{Subject, can_run, eventually, gate_of, state};
use pages::{PageCount, PageRange, VirtAddr};
use tracee::uffd::{Faults, Mode, UffdEvent};
use tracee::{Borrowed, Features, HostPid, Keeper, Stopped, Uffd};

const ROLE: &str = "QMIG_TEST_ROLE";

fn play(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a name"));
    command.args(["--exact", "a_role", "--nocapture"]).env(ROLE, role);
    command
}

/// What the other processes of these tests do; nothing in an ordinary run.
#[test]
fn a_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["keeper"] => drop(tracee::keeper::run()),
        [with, base, ref tree @ ..] => {
            let base = VirtAddr(base.parse().expect("an address"));
            let tree: Vec<_> =
                tree.iter().map(|pid| HostPid(pid.parse().expect("a pid"))).collect();
            hold(with == "with", base, &tree);
        }
        _ => unreachable!("{role}"),
    }
    std::process::exit(0);
}

fn watch(pid: HostPid, base: VirtAddr) -> Uffd {
    let mut task = Stopped::seize(pid).expect("seized");
    let gate = gate_of(pid);
    let mut loan = Borrowed::enter(&mut task).expect("on loan");
    let uffd =
        Uffd::create_in(loan.task(), gate, Faults::All, Features::LAZY).expect("a userfaultfd");
    let range = PageRange::new(base.page(), PageCount(64)).expect("a range");
    uffd.register(range, Mode::MISSING).expect("registered");
    loan.leave().expect("given back");
    task.detach().expect("let go");
    uffd
}

/// The holder: watches the memory of the processes, has a keeper or not, and never serves a fault.
fn hold(with_keeper: bool, base: VirtAddr, tree: &[HostPid]) {
    let keeper = with_keeper.then(|| Keeper::start_as(&mut play("keeper")).expect("a keeper"));
    let mut uffds: Vec<_> = tree.iter().map(|pid| watch(*pid, base)).collect();
    if let Some(keeper) = &keeper {
        let root = tracee::host::pidfd_open(tree[0]).expect("alive");
        keeper.hold(&uffds.iter().collect::<Vec<_>>(), &[root.as_fd()]).expect("held");
        println!("keeper {}", keeper.pid());
    }
    println!("holding");
    loop {
        let mut born = Vec::new();
        for uffd in &uffds {
            let mut events = Vec::new();
            if uffd.read_events(&mut events).expect("readable") {
                for event in events {
                    match event {
                        UffdEvent::Pagefault { .. } => println!("fault"),
                        UffdEvent::Fork { child } => {
                            if let Some(keeper) = &keeper {
                                keeper.hold(&[&child], &[]).expect("held");
                            }
                            println!("fork");
                            born.push(child);
                        }
                        _ => {}
                    }
                }
            }
        }
        uffds.extend(born);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

struct Holder {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Holder {
    fn start(with: &str, base: VirtAddr, tree: &[HostPid]) -> Self {
        let tree: String = tree.iter().map(|pid| format!(" {pid}")).collect();
        let mut child = play(&format!("{with} {}{tree}", base.0))
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    /// Reads on to the line that begins like this; what follows in it.
    fn says(&mut self, begin: &str) -> String {
        loop {
            let mut line = String::new();
            let count = self.lines.read_line(&mut line).expect("readable");
            assert!(count > 0, "the holder ended before it said {begin}");
            if let Some((_, rest)) = line.trim_end().split_once(begin) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Kills it, and everything in its process group.
    fn kill(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).expect("alive");
        self.child.wait().expect("a child");
    }
}

/// A parent and its child, each with a thread that is about to touch a missing page.
fn tree() -> (Subject, VirtAddr, [HostPid; 2]) {
    let mut subject = Subject::lazy(&["anon", "zeros"]);
    let base = VirtAddr(subject.addresses()[0]);
    let parent = subject.pid();
    let mut child = None;
    eventually("its child, and the threads of both", || {
        child = tracee::proc::children::of_thread(parent, parent).expect("alive").first().copied();
        let two = |pid| tracee::proc::children::threads(pid).is_ok_and(|it| it.len() == 2);
        two(parent) && child.is_some_and(two)
    });
    (subject, base, [parent, child.expect("just found")])
}

#[test]
fn a_tree_whose_pages_are_lost_is_killed_and_never_sees_zeros() {
    if !can_run() {
        return;
    }
    let (mut subject, base, both) = tree();
    let mut holder = Holder::start("with", base, &both);
    let keeper: i32 = holder.says("keeper").parse().expect("a pid");
    holder.says("holding");
    // Both threads read from one pipe; whoever gets the line faults.
    subject.go_on();
    holder.says("fault");
    holder.kill();
    // Everybody who has its standard output is dead when this returns.
    assert_eq!(subject.rest(), "", "somebody saw something");
    assert_eq!(subject.ended().signal(), Some(libc::SIGKILL));
    eventually("the end of the child", || matches!(state(both[1]), 'X' | 'Z'));
    eventually("the end of the keeper", || matches!(state(HostPid(keeper)), 'X' | 'Z'));
}

/// The reason for it all: without the keeper, the kernel makes zeros of what is missing.
#[test]
fn without_a_keeper_zeros_are_seen() {
    if !can_run() {
        return;
    }
    let (mut subject, base, both) = tree();
    let mut holder = Holder::start("without", base, &both);
    holder.says("holding");
    subject.go_on();
    holder.says("fault");
    holder.kill();
    assert_eq!(subject.line(), "saw 0");
    tracee::host::kill(both[1], libc::SIGKILL).expect("alive");
}

#[test]
fn children_born_later_are_killed_too() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::lazy(&["anon", "fork"]);
    let base = VirtAddr(subject.addresses()[0]);
    subject.sleeping_in(libc::SYS_read);
    let pid = subject.pid();
    // Its first eight pages are there: the fork is the first that has to wait.
    let range = PageRange::new(base.page(), PageCount(8)).expect("a range");
    let memory = tracee::Memory::open(pid).expect("ptrace access");
    let bytes: Vec<u8> = (1..=8).flat_map(|page| [page; 4096]).collect();
    memory.write(range.start_addr(), &bytes).expect("written");
    let mut holder = Holder::start("with", base, &[pid]);
    holder.says("holding");
    subject.go_on();
    assert_eq!(subject.line(), "ok");
    holder.says("fork");
    holder.says("fork");
    holder.says("fault");
    let children = || tracee::proc::children::of_thread(pid, pid).unwrap_or_default();
    eventually("its child", || !children().is_empty());
    let child = children()[0];
    holder.kill();
    assert_eq!(subject.rest(), "", "somebody saw something");
    eventually("the end of the child", || matches!(state(child), 'X' | 'Z'));
}

#[test]
fn a_keeper_that_is_done_leaves_everybody_alone() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::lazy(&["anon", "one"]);
    let base = VirtAddr(subject.addresses()[0]);
    subject.sleeping_in(libc::SYS_read);
    let keeper = Keeper::start_as(&mut play("keeper")).expect("a keeper");
    let uffd = watch(subject.pid(), base);
    let root = tracee::host::pidfd_open(subject.pid()).expect("alive");
    keeper.hold(&[&uffd], &[root.as_fd()]).expect("held");
    // Nothing open but the socket, /dev/null three times, and what it holds.
    let open = std::fs::read_dir(format!("/proc/{}/fd", keeper.pid())).expect("alive").flatten();
    let mut open: Vec<_> = open
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .map(|to| to.to_string_lossy().split(':').next().unwrap_or_default().to_owned())
        .collect();
    open.sort();
    let expected = ["/dev/null", "/dev/null", "/dev/null", "anon_inode", "anon_inode", "socket"];
    assert_eq!(open, expected);
    let pid = keeper.pid();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        tracee::host::kill(pid, signal).expect("alive");
    }
    let range = PageRange::new(base.page(), PageCount(64)).expect("a range");
    let bytes: Vec<u8> = (1..=64).flat_map(|page| [page; 4096]).collect();
    let copied = uffd.copy(range, &bytes).expect("an answer");
    assert_eq!(copied, tracee::Copied::Installed);
    keeper.done().expect("done");
    drop(uffd);
    subject.go_on();
    assert_eq!(subject.line(), "ok");
    assert!(subject.ended().success());
}

#[test]
fn a_keeper_dropped_without_a_word_kills() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::lazy(&["anon", "one"]);
    let base = VirtAddr(subject.addresses()[0]);
    subject.sleeping_in(libc::SYS_read);
    let keeper = Keeper::start_as(&mut play("keeper")).expect("a keeper");
    let uffd = watch(subject.pid(), base);
    let root = tracee::host::pidfd_open(subject.pid()).expect("alive");
    keeper.hold(&[&uffd], &[root.as_fd()]).expect("held");
    drop(keeper);
    assert_eq!(subject.ended().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_program_that_is_no_keeper_is_told_from_one() {
    let error = Keeper::start_as(&mut Command::new("true")).expect_err("no keeper");
    assert!(error.to_string().contains("start the keeper process"), "{error}");
}
