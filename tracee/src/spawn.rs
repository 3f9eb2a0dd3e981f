//! New tasks for the destination: processes with next to nothing in them, and their threads.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::pipe2;
use pages::{PAGE_SIZE, PageRange, VirtAddr};

use crate::proc::status::Status;
use crate::proc::{children, maps};
use crate::shield::Shield;
use crate::sys::clone::{CLONE_ARGS_SIZE, Child, CloneArgs, spawn};
use crate::sys::ptrace;
use crate::sys::wait::{Change, wait};
use crate::{Call, Error, HostPid, Result, Runner, Stopped, sys};

/// The seed program: one page of code at an address of our choice, and nothing else. The kernel adds
/// a stack and the vdso. A process that executes it is the soil a skeleton grows in: nothing of this
/// program is in it, so nothing has to be taken out.
#[derive(Debug)]
pub struct Seed {
    program: OwnedFd,
    base: VirtAddr,
}

/// What the seed executes, should it ever run: wait for signals forever. Behind it, the gate.
const CODE: [u8; 12] = [
    0xb8, 0x22, 0x00, 0x00, 0x00, // again: mov eax, 34 (pause)
    0x0f, 0x05, //                        syscall
    0xeb, 0xf7, //                        jmp again
    0x0f, 0x05, //                 gate:  syscall
    0xcc, //                              int3
];
/// Where the code begins in the page, after the ELF headers.
const CODE_AT: u64 = 64 + 2 * 56;
const GATE_AT: u64 = CODE_AT + 9;

/// A static ELF executable (elf(5)): one readable and executable page at `base`, no executable
/// stack, entry at [`CODE`].
fn elf(base: VirtAddr) -> Vec<u8> {
    let mut image = Vec::with_capacity(PAGE_SIZE);
    // e_ident: 64 bit, little endian, version 1.
    image.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let half = |image: &mut Vec<u8>, value: u16| image.extend_from_slice(&value.to_le_bytes());
    let word = |image: &mut Vec<u8>, value: u32| image.extend_from_slice(&value.to_le_bytes());
    let long = |image: &mut Vec<u8>, value: u64| image.extend_from_slice(&value.to_le_bytes());
    half(&mut image, 2); // ET_EXEC
    half(&mut image, 62); // EM_X86_64
    word(&mut image, 1); // EV_CURRENT
    long(&mut image, base.0 + CODE_AT); // e_entry
    long(&mut image, 64); // e_phoff
    long(&mut image, 0); // e_shoff
    word(&mut image, 0); // e_flags
    for value in [64, 56, 2, 0, 0, 0] {
        half(&mut image, value); // e_ehsize, e_phentsize, e_phnum, no sections
    }
    let page = PAGE_SIZE as u64;
    let mut header = |kind: u32, flags: u32, at: u64, size: u64, align: u64| {
        word(&mut image, kind);
        word(&mut image, flags);
        for value in [0, at, at, size, size, align] {
            long(&mut image, value);
        }
    };
    header(1, 5, base.0, page, page); // PT_LOAD, read and execute
    header(0x6474_e551, 6, 0, 0, 16); // PT_GNU_STACK, read and write
    image.extend_from_slice(&CODE);
    image.resize(PAGE_SIZE, 0);
    image
}

/// How a new process is to begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewTask {
    /// Its pid in the PID namespace it will be in; `None` lets the kernel choose.
    pub pid: Option<i32>,
    /// CLONE_NEW* of namespaces to make for it.
    pub namespaces: u64,
}

/// A mapping the kernel made by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialMapping {
    /// `[vdso]`, `[vvar]`, `[vvar_vclock]` (Linux 6.13), `[stack]`, …
    pub name: String,
    /// Where.
    pub range: PageRange,
}

/// A new process, stopped before its first instruction, that dies with us.
#[derive(Debug)]
pub struct Skeleton {
    /// Its only thread.
    pub task: Stopped,
    /// A `syscall` instruction in it; goes with the seed's page.
    pub gate: VirtAddr,
    /// The seed's page.
    pub seed: PageRange,
    /// `[vvar]`, `[vvar_vclock]`, `[vdso]`, ascending.
    pub vdso: Vec<SpecialMapping>,
    /// Whatever else is mapped (`[stack]`), ascending.
    pub others: Vec<SpecialMapping>,
}

impl Seed {
    /// A seed whose page lies at `base` (page aligned, free in the layout to be built, not below
    /// `vm.mmap_min_addr`).
    pub fn at(base: VirtAddr) -> Result<Self> {
        let own = |act| move |errno| Error::Own { act, errno };
        if !base.is_page_aligned() {
            return Err(Error::Own { act: "place the seed program", errno: Errno::EINVAL });
        }
        let program = memfd_create(c"qmig-seed", MFdFlags::MFD_CLOEXEC)
            .map_err(own("make a memfd for the seed program"))?;
        let mut file = File::from(program);
        file.write_all(&elf(base)).map_err(|error| Error::Own {
            act: "write the seed program",
            errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
        })?;
        // A descriptor open for writing would make execve(2) answer ETXTBSY.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let read_only = File::open(&path).map_err(Error::proc(path))?;
        Ok(Self { program: read_only.into(), base })
    }

    /// Its `syscall` instruction.
    pub fn gate(&self) -> VirtAddr {
        VirtAddr(self.base.0 + GATE_AT)
    }

    /// Its page.
    fn page(&self) -> Result<PageRange> {
        PageRange::new(self.base.page(), pages::PageCount(1))
            .ok_or(Error::Own { act: "place the seed program", errno: Errno::EINVAL })
    }

    /// Makes a process that executes the seed, and stops it before its first instruction.
    ///
    /// It has the descriptors of `keep` under the numbers given there, and no others; every signal
    /// is blocked; signals this program ignores are ignored in it too; it is our child and dies if
    /// we do. [`Error::PidTaken`] if somebody (perhaps a zombie) has its pid.
    pub fn spawn(&self, ids: NewTask, keep: &[(BorrowedFd<'_>, RawFd)]) -> Result<Skeleton> {
        let own = |act| move |errno| Error::Own { act, errno };
        // All that the child needs on its way lies above the numbers it will keep.
        let floor = keep.iter().map(|(_, to)| to.saturating_add(1)).max().unwrap_or(0).max(3);
        let (go, start) = pipe2(OFlag::O_CLOEXEC).map_err(own("make a pipe"))?;
        let (failure, report) = pipe2(OFlag::O_CLOEXEC).map_err(own("make a pipe"))?;
        let kept: Vec<_> = keep
            .iter()
            .map(|(from, to)| Ok((above(from.as_fd(), floor)?, *to)))
            .collect::<Result<_>>()?;
        let moves: Vec<_> = kept.iter().map(|(from, to)| (from.as_raw_fd(), *to)).collect();
        let program = above(self.program.as_fd(), floor)?;
        let (go, report) = (raise(go, floor)?, raise(report, floor)?);
        let child = Child {
            program: program.as_raw_fd(),
            go: go.as_raw_fd(),
            report: report.as_raw_fd(),
            parents: [start.as_raw_fd(), failure.as_raw_fd()],
            moves: &moves,
        };
        let pid =
            spawn(ids.namespaces, ids.pid, child).map_err(|errno| match (errno, ids.pid) {
                (Errno::EEXIST, Some(pid)) => Error::PidTaken { pid },
                (errno, _) => Error::Own { act: "make a process", errno },
            })?;
        drop((go, report, program, kept));
        let born = Newborn { pid: HostPid(pid), alive: true };
        self.skeleton(born.bring_to_seed(start, failure)?)
    }

    fn skeleton(&self, task: Stopped) -> Result<Skeleton> {
        let seed = self.page()?;
        let (mut vdso, mut others) = (Vec::new(), Vec::new());
        for mapping in maps::read(task.tid())? {
            let Some(range) = mapping.range() else { continue };
            let name = mapping.special().unwrap_or_default().to_owned();
            match name.as_str() {
                "[vdso]" | "[vvar]" | "[vvar_vclock]" => vdso.push(SpecialMapping { name, range }),
                "[vsyscall]" => {}
                _ if range == seed => {}
                _ => others.push(SpecialMapping { name, range }),
            }
        }
        Ok(Skeleton { task, gate: self.gate(), seed, vdso, others })
    }
}

/// A copy of `fd` numbered `floor` or higher.
fn above(fd: BorrowedFd<'_>, floor: RawFd) -> Result<OwnedFd> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(floor))
        .map_err(|errno| Error::Own { act: "copy a descriptor for a new process", errno })?;
    Ok(sys::process::adopt_fd(number))
}

/// The same descriptor numbered `floor` or higher.
fn raise(fd: OwnedFd, floor: RawFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() >= floor { Ok(fd) } else { above(fd.as_fd(), floor) }
}

/// A child that is not held yet; killed and reaped if we give up on it.
struct Newborn {
    pid: HostPid,
    alive: bool,
}

impl Newborn {
    fn bring_to_seed(mut self, start: OwnedFd, failure: OwnedFd) -> Result<Stopped> {
        let pid = self.pid;
        let not_started = |_| Error::NotStarted { pid };
        let options = ptrace::O_TRACESYSGOOD | ptrace::O_EXITKILL;
        ptrace::seize(pid.0, options | ptrace::O_TRACEEXEC).map_err(Error::os("seize", pid))?;
        File::from(start).write_all(&[1]).map_err(not_started)?;
        loop {
            match wait(pid.0, true) {
                Ok(Some(Change::Stopped { event: ptrace::EVENT_EXEC, .. })) => break,
                // An execve(2) that fails too late to return ends in SIGSEGV: let it.
                Ok(Some(Change::Stopped { signal, event })) => {
                    let deliver = if event == 0 { signal & 0x7f } else { 0 };
                    ptrace::cont(pid.0, deliver).map_err(Error::os("run", pid))?;
                }
                _ => {
                    self.alive = false;
                    let mut errno = [0; 4];
                    File::from(failure).read_exact(&mut errno).map_err(not_started)?;
                    let errno = Errno::from_raw(i32::from_ne_bytes(errno));
                    return Err(Error::Own { act: "execute the seed program", errno });
                }
            }
        }
        // Every signal is blocked, and that is ours, not the program's.
        let shield = Shield { mask: 0, mark: libc::SIGTRAP, put_off_stop: false };
        shield.block(pid)?;
        let mut task = Stopped::born(pid, options | ptrace::O_TRACEEXEC, Some(shield));
        self.alive = false;
        task.set_options(options)?;
        // Leave execve(2), so that its return value does not end up in registers set later.
        ptrace::syscall(pid.0, 0).map_err(Error::os("run", pid))?;
        match wait(pid.0, true) {
            Ok(Some(Change::Stopped { signal: ptrace::SYSCALL_STOP, .. })) => Ok(task),
            _ => {
                task.forget();
                self.alive = true;
                Err(Error::NotStarted { pid })
            }
        }
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.alive, false) {
            let _ = sys::process::kill(self.pid.0, libc::SIGKILL);
            while let Ok(Some(Change::Stopped { .. })) = wait(self.pid.0, true) {}
        }
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes a child of a skeleton process: a copy of its small address space (its
/// [`Runner::of_fork`] goes on in the copy), stopped before it runs, and it dies with us like its
/// parent. `flags` are CLONE_* to add: CLONE_PARENT makes a sibling.
///
/// `new_pid` is its number in the innermost PID namespace. [`Error::PidTaken`] if somebody has it.
pub fn fork_in(
    parent: &mut Stopped,
    runner: &mut Runner,
    new_pid: u32,
    flags: u64,
) -> Result<Stopped> {
    let sibling = flags & libc::CLONE_PARENT as u64 != 0;
    let pid = put_tid(runner, new_pid)?;
    let args = CloneArgs {
        flags: flags | CLONE_PTRACE,
        // A sibling tells their common parent what its maker would tell (clone(2)).
        exit_signal: if sibling { 0 } else { libc::SIGCHLD as u64 },
        set_tid: pid.0,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    let args = runner.put(&args.bytes())?;
    let made = runner.call(parent, libc::SYS_clone3, &[args.0, CLONE_ARGS_SIZE as u64])?;
    check_made(made, new_pid, parent.tid())?;
    let new_namespace = flags & libc::CLONE_NEWPID as u64 != 0;
    let host = match !new_namespace && same_pid_namespace(parent.tid())? {
        true => HostPid(new_pid.cast_signed()),
        false => {
            let of = match sibling {
                true => HostPid(Status::read(parent.tid())?.ppid),
                false => parent.tid(),
            };
            find_inner(&children::of_process(of)?, new_pid)?
                .ok_or_else(|| Error::NewTaskLost { pid: new_pid, parent: parent.tid() })?
        }
    };
    first_stop(host, parent)
}

/// Makes threads of a skeleton process, all in one batch: number in the innermost PID namespace, and
/// the address the kernel clears when the thread ends (set_tid_address(2); zero for none). Each is
/// stopped before it runs and dies with us.
pub fn threads_in(
    leader: &mut Stopped,
    runner: &mut Runner,
    tids: &[(u32, u64)],
) -> Result<Vec<Stopped>> {
    const SHARED: i32 = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    /// Scratch memory for one thread: arguments and number.
    const EACH: usize = CLONE_ARGS_SIZE + 16;
    let mut rest = tids;
    while !rest.is_empty() {
        if runner.left() < EACH {
            runner.reset();
        }
        let (now, later) = rest.split_at(rest.len().min((runner.left() / EACH).max(1)));
        rest = later;
        let mut calls = Vec::with_capacity(now.len());
        for (tid, clear) in now {
            let clearing = if *clear == 0 { 0 } else { libc::CLONE_CHILD_CLEARTID };
            let args = CloneArgs {
                flags: u64::from((SHARED | clearing).cast_unsigned()) | CLONE_PTRACE,
                child_tid: *clear,
                set_tid: put_tid(runner, *tid)?.0,
                set_tid_size: 1,
                ..CloneArgs::default()
            };
            let args = runner.put(&args.bytes())?;
            calls.push(Call::new(libc::SYS_clone3, &[args.0, CLONE_ARGS_SIZE as u64]));
        }
        runner.batch(leader, &mut calls)?;
        for (call, (tid, _)) in calls.iter().zip(now) {
            check_made(call.value(), *tid, leader.tid())?;
        }
    }
    let numbers: Vec<u32> = tids.iter().map(|(tid, _)| *tid).collect();
    let hosts = host_tids(leader.tid(), &numbers)?;
    hosts.into_iter().map(|host| first_stop(host, leader)).collect()
}

/// `CLONE_PTRACE`: the new task is seized like the one that made it, with its ptrace options.
const CLONE_PTRACE: u64 = libc::CLONE_PTRACE as u64;

fn put_tid(runner: &mut Runner, tid: u32) -> Result<VirtAddr> {
    runner.put(&tid.to_le_bytes())
}

fn check_made(made: std::result::Result<u64, Errno>, tid: u32, pid: HostPid) -> Result<()> {
    match made {
        Ok(_) => Ok(()),
        Err(Errno::EEXIST) => Err(Error::PidTaken { pid: tid.cast_signed() }),
        Err(errno) => Err(Error::Injected { act: "make a task", pid, errno }),
    }
}

/// Waits for the stop every task made under CLONE_PTRACE begins with.
fn first_stop(tid: HostPid, maker: &Stopped) -> Result<Stopped> {
    let (options, shield) = maker.inherited();
    match wait(tid.0, true) {
        Ok(Some(Change::Stopped { event: ptrace::EVENT_STOP, .. })) => {
            Ok(Stopped::born(tid, options, shield))
        }
        Ok(Some(Change::Ended(_))) => Err(Error::Died { pid: tid }),
        Ok(_) | Err(_) => Err(Error::NotStarted { pid: tid }),
    }
}

fn same_pid_namespace(pid: HostPid) -> Result<bool> {
    let link = |path: String| std::fs::read_link(&path).map_err(Error::proc(path));
    Ok(link(format!("/proc/{pid}/ns/pid"))? == link("/proc/self/ns/pid".to_owned())?)
}

/// Which of `tasks` calls itself `inner`.
fn find_inner(tasks: &[HostPid], inner: u32) -> Result<Option<HostPid>> {
    for task in tasks {
        if Status::read(*task)?.ns_pid.last().is_some_and(|pid| pid.cast_unsigned() == inner) {
            return Ok(Some(*task));
        }
    }
    Ok(None)
}

/// What the threads of `process` that call themselves `inner` are called here.
fn host_tids(process: HostPid, inner: &[u32]) -> Result<Vec<HostPid>> {
    if same_pid_namespace(process)? {
        return Ok(inner.iter().map(|tid| HostPid(tid.cast_signed())).collect());
    }
    let mut by_inner = std::collections::HashMap::new();
    for tid in children::threads(process)? {
        if let Some(number) = Status::read(tid)?.ns_pid.last() {
            by_inner.insert(number.cast_unsigned(), tid);
        }
    }
    let find = |tid: &u32| by_inner.get(tid).copied();
    inner
        .iter()
        .map(|tid| find(tid).ok_or(Error::NewTaskLost { pid: *tid, parent: process }))
        .collect()
}

/// Gives the future children of the calling thread a time namespace (time_namespaces(7), Linux
/// 5.6), in which CLOCK_MONOTONIC and CLOCK_BOOTTIME are ahead by these nanoseconds.
pub fn enter_time_namespace(monotonic_offset: i128, boottime_offset: i128) -> Result<()> {
    /// sched.h: CLONE_NEWTIME.
    const CLONE_NEWTIME: i32 = 0x80;
    sys::process::unshare(CLONE_NEWTIME)
        .map_err(|errno| Error::Own { act: "make a time namespace", errno })?;
    let line = |name, offset: i128| {
        let (seconds, nanos) = (offset.div_euclid(1_000_000_000), offset.rem_euclid(1_000_000_000));
        format!("{name} {seconds} {nanos}\n")
    };
    let text = line("monotonic", monotonic_offset) + &line("boottime", boottime_offset);
    // By thread id: /proc/self would be the main thread, whose children stay where they are.
    let path = format!("/proc/{}/timens_offsets", sys::process::gettid());
    std::fs::write(&path, text).map_err(Error::proc(path))
}

/// Waits until our child (or tracee) `pid` has ended, and reaps it; `None` if it has not by then.
pub fn wait_reap(pid: HostPid, deadline: Duration) -> Result<Option<i32>> {
    let until = Instant::now() + deadline;
    let mut nap = Duration::from_micros(50);
    loop {
        match wait(pid.0, false).map_err(Error::os("wait for", pid))? {
            Some(Change::Ended(status)) => return Ok(Some(status)),
            Some(Change::Stopped { .. }) => {}
            None if Instant::now() > until => return Ok(None),
            None => {
                std::thread::sleep(nap);
                nap = (nap * 2).min(Duration::from_millis(5));
            }
        }
    }
}
