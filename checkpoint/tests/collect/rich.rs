//! A program with one of everything.

use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use checkpoint::collect::{Collected, PageSource, SpacePages};
use image::state::{
    Advice, Body, Checkpoint, FileKind, Packet, SigSet, SocketState, VmaFlags, VmaKind,
};
use pages::{PageIndex, SpaceId, VirtAddr};

use crate::harness::{Subject, can_run};
use crate::{collected, living, open_files, pages_of, task};

#[test]
fn a_rich_program_is_read_whole_and_goes_on() {
    if !can_run() {
        return;
    }
    let mut subject = Subject::start(&["rich"]);
    let before = fs::read_to_string(format!("/proc/{}/maps", subject.pid())).expect("maps");
    let (Collected { checkpoint, spaces, .. }, frozen, took) = collected(subject.pid());
    let after = fs::read_to_string(format!("/proc/{}/maps", subject.pid())).expect("maps");
    assert_eq!(before, after, "no scratch memory is left");
    eprintln!("collect of 2 processes, 3 threads, a zombie: {took:?}");

    tree(&subject, &checkpoint);
    signals_and_timers(&checkpoint);
    threads(&subject, &checkpoint);
    files(&subject, &checkpoint);
    memory(&subject, &checkpoint, &spaces);
    assert_eq!(checkpoint.clocks.monotonic, frozen.monotonic);

    // It goes on: the pending signals are still blocked, SIGTRAP is still ignored, USR1 is answered.
    let status = fs::read_to_string(format!("/proc/{}/status", subject.pid())).expect("status");
    let mask = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a mask");
        u64::from_str_radix(line.trim(), 16).expect("hex")
    };
    assert_ne!(mask("SigIgn:") & 1 << 4, 0, "SIGTRAP is ignored");
    assert_ne!(mask("ShdPnd:") & 1 << 36, 0, "the queued signal is queued");
    subject.wake_until("still here");
    let (again, ..) = collected(subject.pid());
    assert_eq!(again.checkpoint.pipes, checkpoint.pipes, "nothing was consumed");
    let sockets = |checkpoint: &Checkpoint| {
        let files = checkpoint.files.iter();
        files.filter(|file| matches!(file.kind, FileKind::Unix(_))).cloned().collect::<Vec<_>>()
    };
    assert_eq!(sockets(&again.checkpoint), sockets(&checkpoint));
}

fn tree(subject: &Subject, checkpoint: &Checkpoint) {
    let pids = subject.numbers("pid");
    assert_eq!(checkpoint.tasks.len(), 3);
    let root = checkpoint.root();
    assert_eq!((u64::from(root.id.0), root.parent), (pids[0], None));
    assert_eq!((root.group, root.session), (root.id, root.id));
    let zombie = task(checkpoint, pids[1]);
    assert_eq!(zombie.parent, Some(root.id));
    assert!(
        matches!(&zombie.body, Body::Zombie { status: 0x300, comm } if comm.starts_with("subject"))
    );
    let child = task(checkpoint, pids[2]);
    assert_eq!((child.parent, child.group, child.session), (Some(root.id), root.id, root.id));
    assert_ne!(living(child).fds, living(root).fds);

    let root = living(root);
    assert!(root.child_subreaper && !living(child).child_subreaper);
    assert_eq!((root.fs.umask, root.stopped_by, root.personality), (0o027, None, 0));
    assert_eq!((root.rlimits[6].soft, root.rlimits[6].hard), (100, 200));
    let path = |id| match &checkpoint.file(id).expect("a file").kind {
        FileKind::Regular(regular) => regular.path.clone(),
        other => panic!("a path: {other:?}"),
    };
    assert_eq!((path(root.fs.cwd), path(root.fs.root)), ("/".into(), "/".into()));
    assert!(path(root.mm.exe).contains("/subject-"));
    assert_eq!((root.mm.dumpable, root.mm.thp_disabled), (1, false));
    assert!(root.mm.auxv.len() > 20);
}

fn signals_and_timers(checkpoint: &Checkpoint) {
    let root = living(checkpoint.root());
    assert_eq!(root.sigactions.len(), 62);
    let usr1 = root.sigactions[8]; // 10, the ninth without 9
    assert!(usr1.handler > 1 && usr1.flags & 0x1000_0000 != 0, "SA_RESTART: {usr1:?}");
    assert_eq!(usr1.mask, SigSet(1 << 11));
    assert_eq!(root.sigactions[4].handler, 1, "SIGTRAP is ignored");
    let queued: Vec<_> = root.pending.iter().map(|info| (info.number(), info.0[24])).collect();
    assert_eq!(queued, [(37, 0x67)], "SIGRTMIN+3 with 4711");
    let own: Vec<_> = root.leader().pending.iter().map(|info| info.number()).collect();
    assert_eq!(own, [12]);
    assert!(root.leader().blocked.contains(12) && root.leader().blocked.contains(37));

    let left = |timer: image::state::IntervalTimer, whole| {
        let whole = Duration::from_secs(whole);
        assert!(timer.left <= whole && timer.left > whole - Duration::from_secs(20), "{timer:?}");
    };
    left(root.itimers[0], 200);
    assert_eq!(root.itimers[0].interval, Duration::from_secs(100));
    let [timer] = root.posix_timers[..] else { panic!("{:?}", root.posix_timers) };
    assert_eq!(
        (timer.clock, timer.signal, timer.notify, timer.value & 0xffff_ffff),
        (1, 39, 0, 99)
    );
    assert_eq!(timer.timer.interval, Duration::new(7, 5));
    left(timer.timer, 300);
}

fn threads(subject: &Subject, checkpoint: &Checkpoint) {
    let root = living(checkpoint.root());
    let [first, second] = &root.threads[..] else { panic!("two threads") };
    assert_eq!(first.id, checkpoint.root().id);
    assert_eq!(
        (u64::from(second.id.0), second.comm.as_str()),
        (subject.numbers("second")[0], "second")
    );
    assert_eq!(second.altstack.base, VirtAddr(subject.numbers("second")[1]));
    assert_eq!((second.altstack.size, second.altstack.flags), (32768, 0));
    assert_eq!(first.altstack.base, VirtAddr(subject.numbers("alternate")[0]));
    assert_eq!((first.pdeath_signal, second.pdeath_signal), (0, 1));
    for thread in [first, second] {
        assert_ne!(thread.clear_child_tid, VirtAddr(0));
        assert!(thread.robust_list.is_some_and(|list| list.len == 24), "{thread:?}");
        assert_eq!(thread.creds.uids, [0; 4]);
        assert_eq!((thread.regs.cs, thread.regs.orig_ax), (0x33, u64::MAX));
        assert_eq!(thread.regs.ax, 34, "pause is simply called again");
        assert_ne!(thread.regs.fs_base, 0);
        assert_eq!(thread.wait_left, None);
        assert_eq!(thread.sched.policy, 0);
        let known = thread.fp.components.iter().map(|part| part.number).collect::<Vec<_>>();
        assert!(known.contains(&2), "AVX: {known:?}");
    }
}

fn files(subject: &Subject, checkpoint: &Checkpoint) {
    let fds = subject.numbers("fds");
    let open = open_files(checkpoint);
    let kind = |nth: usize| &open[&fds[nth]].kind;
    let (FileKind::Pipe { pipe: read }, FileKind::Pipe { pipe: write }) = (kind(0), kind(1)) else {
        panic!("a pipe: {:?} {:?}", kind(0), kind(1))
    };
    assert_eq!(read, write);
    assert_eq!((open[&fds[0]].flags & 3, open[&fds[1]].flags & 3), (0, 1));
    assert_ne!(open[&fds[0]].flags & 0o4000, 0, "O_NONBLOCK");
    assert_eq!(checkpoint.pipes.len(), 1);
    assert_eq!(
        (checkpoint.pipes[0].bytes.as_slice(), checkpoint.pipes[0].capacity),
        (&b"in the pipe"[..], 65536)
    );
    assert_eq!(kind(2), &FileKind::EventFd { counter: 77, semaphore: true });
    assert_eq!(kind(3), &FileKind::SignalFd { mask: 1 << 11 | 1 << 36 });
    assert!(matches!(kind(4), FileKind::TimerFd(timer) if timer.clock == 1
        && timer.timer.interval == Duration::new(7, 5) && timer.timer.left > Duration::from_secs(280)));
    let FileKind::Epoll { targets } = kind(5) else { panic!("{:?}", kind(5)) };
    let [watch] = targets[..] else { panic!("{targets:?}") };
    // EPOLLERR and EPOLLHUP are always watched for.
    assert_eq!((u64::from(watch.fd), watch.events), (fds[0], 0x8000_0019));
    assert_eq!(watch.data, 0x0123_4567_89ab_cdef);
    let FileKind::Regular(data) = kind(6) else { panic!("{:?}", kind(6)) };
    assert_eq!((data.position, data.size, data.ghost), (Some(4), Some(10), None));
    assert_eq!(data.path, subject.folder.join("data").to_string_lossy());
    assert_eq!(open[&fds[6]].id, open[&fds[7]].id, "dup is one description");
    let FileKind::Regular(ghost) = kind(8) else { panic!("{:?}", kind(8)) };
    let body = checkpoint.ghosts.iter().find(|body| Some(body.id) == ghost.ghost).expect("content");
    assert_eq!((body.size, &body.body.chunks[..]), (3, &[(0, b"boo".to_vec())][..]));
    let (FileKind::Unix(left), FileKind::Unix(right)) = (kind(9), kind(10)) else {
        panic!("a pair")
    };
    assert_eq!((left.peer, right.peer), (right.inode, left.inode));
    assert_eq!((&left.queue[..], &right.queue[..]), (&[][..], &[Packet::plain(*b"queued")][..]));
    let FileKind::Inet(listener) = kind(11) else { panic!("{:?}", kind(11)) };
    assert_eq!((listener.state, listener.backlog), (SocketState::Listening, 33));
    assert!(matches!(kind(12), FileKind::Memfd { .. }));
    // The child inherited every description.
    let child = living(task(checkpoint, subject.numbers("pid")[2])).fds;
    let child = checkpoint.fd_tables.iter().find(|table| table.id == child).expect("its table");
    let same = child.fds.iter().all(|fd| open[&u64::from(fd.number)].id == fd.file);
    assert!(same && child.fds.len() == open.len(), "fork shares descriptions");
    let epoll = child.fds.iter().find(|fd| u64::from(fd.number) == fds[5]).expect("epoll");
    assert!(epoll.close_on_exec);
}

fn memory(subject: &Subject, checkpoint: &Checkpoint, spaces: &[SpacePages]) {
    let places = subject.numbers("memory");
    let root = living(checkpoint.root());
    let vma = |at: u64| {
        let page = VirtAddr(at).page();
        root.mm.vmas.iter().find(|vma| vma.range.contains(page)).expect("a mapping")
    };
    let object = |at: u64| match vma(at).kind {
        VmaKind::Memfd { file, shared: true, access: 2, .. } => {
            match checkpoint.file(file).expect("its file").kind {
                FileKind::Memfd { shared, .. } => shared,
                ref other => panic!("{other:?}"),
            }
        }
        other => panic!("shared memory: {other:?}"),
    };
    let (journal, beats) = (object(places[0]), object(places[1]));
    let named = |id| checkpoint.shared.iter().find(|one| one.id == id).expect("an object");
    assert_eq!((named(journal).name.as_str(), named(journal).size), ("journal", 5 * 4096));
    assert_eq!((named(beats).name.as_str(), named(beats).size), ("/dev/zero", 3 * 4096));
    assert_eq!(checkpoint.shared.len(), 2, "the child shares them");
    let content = pages_of(spaces, SpaceId::Shared(journal));
    let PageSource::Shared { file } = &content.source else { panic!("{content:?}") };
    let ranges: Vec<_> =
        content.pages.ranges().iter().map(|run| (run.start().0, run.count().0)).collect();
    assert_eq!(ranges, [(2, 1)]);
    let mut byte = [0];
    nix::sys::uio::pread(file.as_fd(), &mut byte, 8192).expect("readable");
    assert_eq!(byte, *b"z");

    let pages = &pages_of(spaces, SpaceId::Process(checkpoint.root().id)).pages;
    let private = |nth: u64| pages.contains(PageIndex((places[2] >> 12) + nth));
    assert!(private(3) && private(5), "written");
    assert!(!private(0) && !private(7) && !private(15), "never written, or the zero page");
    assert!(vma(places[2]).advice.contains(Advice::DONT_FORK));
    assert!(vma(places[2] + 8 * 4096).flags.contains(VmaFlags::LOCKED));
    assert_eq!(root.mm.brk, VirtAddr(places[3]));
    let stack = vma(root.leader().regs.sp);
    assert!(stack.flags.contains(VmaFlags::GROWS_DOWN) && stack.kind == VmaKind::Anon);
    let vdso = root.mm.vmas.iter().find(|vma| vma.kind == VmaKind::Vdso).expect("a vdso");
    assert!(pages.contains(vdso.range.start()));
    assert_eq!(root.mm.vmas.iter().filter(|vma| vma.kind == VmaKind::Vvar).count(), 1);
    let code = vma(root.mm.start_code.0);
    assert!(matches!(code.kind, VmaKind::File { shared: false, .. }));
    assert!(root.mm.vmas.windows(2).all(|pair| pair[0].range.end() <= pair[1].range.start()));
}
