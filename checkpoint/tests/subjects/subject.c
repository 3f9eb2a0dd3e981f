/* A program with the state its arguments name. It leads a session of its own, and writes "ready"
 * and what the test must know into the file given first; then it waits for signals. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/if_packet.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static FILE *out;
static const char *folder;

static void must(int ok, const char *what) {
    if (!ok) {
        fprintf(out, "failed %s: %s\n", what, strerror(errno));
        fflush(out);
        _exit(9);
    }
}

static char *in_folder(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static volatile sig_atomic_t usr1;
static void on_usr1(int s) { (void)s; usr1 = 1; }

/* ---- what is refused ---- */

static void *parts(void *flags) {
    atomic_int *parted = flags;
    must(!unshare(*parted), "unshare");
    *parted = 0;
    for (;;) pause();
}

static int vm_child(void *arg) {
    (void)arg;
    for (;;) pause();
}

static void make(const char *what) {
    if (!strcmp(what, "quiet")) {
    } else if (!strcmp(what, "fanotify")) {
        int fd = fanotify_init(FAN_CLASS_CONTENT, O_RDONLY);
        must(fd >= 0 && !fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, folder), what);
    } else if (!strcmp(what, "pidfd")) {
        must(syscall(SYS_pidfd_open, getppid(), 0) >= 0, what);
    } else if (!strcmp(what, "packet-pipe")) {
        int p[2];
        must(!pipe2(p, O_DIRECT), what);
    } else if (!strcmp(what, "io-uring")) {
        char params[120] = {0};
        must(syscall(425, 8, params) >= 0, what);
    } else if (!strcmp(what, "userfaultfd")) {
        must(syscall(SYS_userfaultfd, O_CLOEXEC) >= 0, what);
    } else if (!strcmp(what, "perf")) {
        struct { uint32_t type, size; uint64_t config, rest[12]; } clock = {1, 112, 0, {0}};
        must(syscall(SYS_perf_event_open, &clock, 0, -1, -1, 0) >= 0, what);
    } else if (!strcmp(what, "bpf")) {
        uint32_t array[16] = {2, 4, 8, 1};
        must(syscall(SYS_bpf, 0, array, sizeof array) >= 0, what);
    } else if (!strcmp(what, "huge-private-memfd")) {
        int f = memfd_create("huge", MFD_HUGETLB);
        must(f >= 0 && !ftruncate(f, 2 << 20), what);
        must(mmap(0, 2 << 20, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, f, 0) != MAP_FAILED && !close(f), what);
    } else if (!strcmp(what, "namespace")) {
        must(open("/proc/self/ns/net", O_RDONLY) >= 0, what);
    } else if (!strcmp(what, "device")) {
        must(open("/dev/net/tun", O_RDWR) >= 0 || open("/dev/fuse", O_RDWR) >= 0, what);
    } else if (!strcmp(what, "deleted-fifo")) {
        must(!mkfifo(in_folder("fifo"), 0600), what);
        must(open(in_folder("fifo"), O_RDWR) >= 0 && !unlink(in_folder("fifo")), what);
    } else if (!strcmp(what, "lease")) {
        int f = open(in_folder("leased"), O_RDWR | O_CREAT, 0600);
        must(f >= 0 && !fcntl(f, F_SETLEASE, F_WRLCK), what);
    } else if (!strcmp(what, "hard-link")) {
        must(open(in_folder("one"), O_RDWR | O_CREAT, 0600) >= 0, what);
        char one[4096];
        strcpy(one, in_folder("one"));
        must(!link(one, in_folder("two")) && !unlink(one), what);
    } else if (!strcmp(what, "deleted-folder")) {
        must(!mkdir(in_folder("gone"), 0700), what);
        must(open(in_folder("gone"), O_RDONLY) >= 0 && !rmdir(in_folder("gone")), what);
    } else if (!strcmp(what, "big-ghost")) {
        int f = open(in_folder("big"), O_RDWR | O_CREAT, 0600);
        static char mb[1 << 20];
        memset(mb, 7, sizeof mb);
        for (int i = 0; i < 3; i++) must(write(f, mb, sizeof mb) == sizeof mb, what);
        must(!fsync(f) && !unlink(in_folder("big")), what);
    } else if (!strcmp(what, "aio")) {
        aio_context_t ctx = 0;
        must(!syscall(SYS_io_setup, 8, &ctx), what);
    } else if (!strcmp(what, "guard")) {
        char *p = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        must(!madvise(p + 4096, 4096, 102), what);
    } else if (!strcmp(what, "mseal")) {
        char *p = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(!syscall(462, p, 4096, 0), what);
    } else if (!strcmp(what, "seccomp")) {
        must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), what);
        struct { unsigned short c; unsigned char jt, jf; unsigned k; } allow[] = {{6, 0, 0, 0x7fff0000}};
        struct { unsigned short len; void *f; } prog = {1, allow};
        must(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog), what);
    } else if (!strcmp(what, "netlink")) {
        must(socket(AF_NETLINK, SOCK_RAW, 16 /* generic */) >= 0, what);
    } else if (!strcmp(what, "packet")) {
        int fd = socket(AF_PACKET, SOCK_RAW, 0);
        struct tpacket_req ring = {.tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2};
        must(fd >= 0 && !setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring), what);
    } else if (!strcmp(what, "raw")) {
        must(socket(AF_INET, SOCK_RAW, IPPROTO_IGMP) >= 0, what);
    } else if (!strcmp(what, "established") || !strcmp(what, "unaccepted")) {
        int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t n = sizeof a;
        must(!bind(l, (void *)&a, n) && !listen(l, 5), what);
        must(!getsockname(l, (void *)&a, &n) && !connect(c, (void *)&a, n), what);
        if (!strcmp(what, "established")) {
            must(accept(l, 0, 0) >= 0, what);
            close(l);
        }
    } else if (!strcmp(what, "unix-outside")) {
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        strcpy(a.sun_path, in_folder("test.sock"));
        must(!connect(s, (void *)&a, sizeof a), what);
    } else if (!strcmp(what, "stale-watch")) {
        int e = epoll_create1(0), p[2];
        struct epoll_event ev = {.events = EPOLLIN};
        must(!pipe(p) && !epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev), what);
        must(dup(p[0]) >= 0 && !close(p[0]), what);
    } else if (!strcmp(what, "thread-clock")) {
        timer_t t;
        struct sigevent ev = {.sigev_notify = SIGEV_NONE};
        must(!timer_create(CLOCK_THREAD_CPUTIME_ID, &ev, &t), what);
    } else if (!strcmp(what, "semaphores")) {
        int id = semget(IPC_PRIVATE, 2, 0600);
        struct sembuf up = {.sem_num = 1, .sem_op = 1, .sem_flg = SEM_UNDO};
        must(id >= 0 && !semop(id, &up, 1), what);
        fprintf(out, "semaphores %d\n", id);
    } else if (!strcmp(what, "unread-inotify")) {
        must(inotify_init() == 4 && inotify_add_watch(4, folder, IN_CREATE) > 0, what);
        must(!close(open(in_folder("new"), O_CREAT | O_WRONLY, 0600)), what);
    } else if (!strcmp(what, "posix-queue")) {
        char name[64];
        snprintf(name, sizeof name, "qmig-%d", getpid());
        must(syscall(SYS_mq_open, name, O_CREAT | O_RDWR, 0600, NULL) == 4 && !syscall(SYS_mq_unlink, name), what);
    } else if (!strncmp(what, "thread-parts-", 13)) {
        static atomic_int parted;
        parted = !strcmp(what + 13, "fs") ? CLONE_FS : !strcmp(what + 13, "files") ? CLONE_FILES : CLONE_NEWUTS;
        pthread_t thread;
        must(!pthread_create(&thread, NULL, parts, &parted), what);
        while (parted) usleep(500);
    } else if (!strcmp(what, "personality")) {
        must(syscall(SYS_personality, 0x0000001) >= 0, what);
    } else if (!strcmp(what, "deadline")) {
        struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t prio; uint64_t run, dead, period; }
            attr = {sizeof attr, 6, 0, 0, 0, 1000000, 10000000, 10000000};
        must(!syscall(SYS_sched_setattr, 0, &attr, 0), what);
    } else if (!strcmp(what, "sigtrap")) {
        sigset_t s;
        sigemptyset(&s), sigaddset(&s, SIGTRAP);
        must(!sigprocmask(SIG_BLOCK, &s, 0) && !raise(SIGTRAP), what);
    } else if (!strcmp(what, "uts")) {
        must(!unshare(CLONE_NEWUTS), what);
    } else if (!strcmp(what, "shared-table") || !strcmp(what, "shared-fs")) {
        int flags = !strcmp(what, "shared-fs") ? CLONE_FS : CLONE_FILES;
        long child = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
        must(child >= 0, what);
        if (!child) for (;;) pause();
        fprintf(out, "child %ld\n", child);
    } else if (!strcmp(what, "shared-memory")) {
        static char stack[65536];
        int child = clone(vm_child, stack + sizeof stack, CLONE_VM | SIGCHLD, 0);
        must(child >= 0, what);
        fprintf(out, "child %d\n", child);
    } else if (!strcmp(what, "terminal")) {
        int m = posix_openpt(O_RDWR | O_NOCTTY);
        must(m >= 0 && !grantpt(m) && !unlockpt(m), what);
        must(open(ptsname(m), O_RDWR | O_NOCTTY) >= 0, what);
    } else if (!strcmp(what, "slave")) {
        /* The master stays with a process outside, which ends with us. */
        int m = posix_openpt(O_RDWR | O_NOCTTY);
        must(m >= 0 && !grantpt(m) && !unlockpt(m), what);
        must(open(ptsname(m), O_RDWR | O_NOCTTY) >= 0, what);
        pid_t self = getpid(), keeper = fork();
        must(keeper >= 0, what);
        if (!keeper) {
            if (fork()) _exit(0);
            setsid();
            while (!kill(self, 0)) usleep(10000);
            _exit(0);
        }
        must(waitpid(keeper, 0, 0) == keeper && !close(m), what);
    } else {
        errno = EINVAL;
        must(0, what);
    }
}

/* ---- what is carried ---- */

static char alternate[65536];
static volatile unsigned long *beats;
static pthread_barrier_t both_ready;

static void *named_thread(void *arg) {
    (void)arg;
    prctl(PR_SET_NAME, "second");
    static char own[32768];
    stack_t st = {.ss_sp = own, .ss_size = sizeof own};
    must(!sigaltstack(&st, 0), "sigaltstack");
    must(!prctl(PR_SET_PDEATHSIG, SIGHUP), "pdeath");
    fprintf(out, "second %d altstack %p\n", gettid(), (void *)own);
    pthread_barrier_wait(&both_ready);
    for (;;) pause();
}

static void rich(void) {
    pthread_t t;
    must(dup2(open("/dev/null", O_RDWR), 0) == 0, "stdin");
    umask(027);
    struct sigaction sa = {.sa_handler = on_usr1, .sa_flags = SA_RESTART};
    sigaddset(&sa.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &sa, 0);
    signal(SIGTRAP, SIG_IGN);
    sigset_t s;
    sigemptyset(&s), sigaddset(&s, SIGUSR2), sigaddset(&s, SIGRTMIN + 3);
    pthread_sigmask(SIG_BLOCK, &s, 0);
    pthread_barrier_init(&both_ready, 0, 2);
    must(!pthread_create(&t, 0, named_thread, 0), "thread");
    pthread_barrier_wait(&both_ready);
    union sigval v = {.sival_int = 4711};
    must(!sigqueue(getpid(), SIGRTMIN + 3, v), "sigqueue");
    must(!syscall(SYS_tgkill, getpid(), gettid(), SIGUSR2), "tgkill");
    stack_t st = {.ss_sp = alternate, .ss_size = sizeof alternate};
    must(!sigaltstack(&st, 0), "sigaltstack");
    struct itimerval it = {{100, 0}, {200, 0}};
    must(!setitimer(ITIMER_REAL, &it, 0), "itimer");
    timer_t timer;
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 5, .sigev_value.sival_int = 99};
    must(!timer_create(CLOCK_MONOTONIC, &ev, &timer), "timer");
    struct itimerspec ts = {{7, 5}, {300, 0}};
    must(!timer_settime(timer, 0, &ts, 0), "timer");
    must(!prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");

    int p[2];
    must(!pipe2(p, O_NONBLOCK) && write(p[1], "in the pipe", 11) == 11, "pipe");
    int efd = eventfd(77, EFD_SEMAPHORE), sfd = signalfd(-1, &s, 0), tfd = timerfd_create(CLOCK_MONOTONIC, 0);
    must(!timerfd_settime(tfd, 0, &ts, 0), "timerfd");
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event w = {.events = EPOLLIN | EPOLLET, .data.u64 = 0x123456789abcdefULL};
    must(!epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &w), "epoll");
    int file = open(in_folder("data"), O_RDWR | O_CREAT, 0640);
    must(write(file, "0123456789", 10) == 10 && lseek(file, 4, SEEK_SET) == 4, "file");
    int twin = dup(file);
    int ghost = open(in_folder("ghost"), O_RDWR | O_CREAT, 0600);
    must(write(ghost, "boo", 3) == 3 && !unlink(in_folder("ghost")), "ghost");
    int pair[2];
    must(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair) && write(pair[0], "queued", 6) == 6, "pair");
    int l = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    must(!bind(l, (void *)&a, sizeof a) && !listen(l, 33), "listen");
    int mfd = memfd_create("journal", MFD_ALLOW_SEALING);
    must(!ftruncate(mfd, 5 * 4096) && pwrite(mfd, "z", 1, 8192) == 1, "memfd");
    char *mm = mmap(0, 5 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, mfd, 0);
    must(mm != MAP_FAILED, "map memfd");
    beats = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    beats[0] = 1;
    char *priv = mmap(0, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    priv[3 * 4096] = 1, priv[5 * 4096] = 2;
    volatile char zero = priv[7 * 4096];
    (void)zero;
    must(!madvise(priv, 16 * 4096, MADV_DONTFORK) && !mlock(priv + 8 * 4096, 4096), "advice");
    void *top = sbrk(65536);

    int zombie = fork();
    if (!zombie) _exit(3);
    siginfo_t si;
    must(!waitid(P_PID, zombie, &si, WEXITED | WNOWAIT), "waitid");
    int child = fork();
    if (!child) {
        for (;;) { beats[1]++; usleep(1000); }
    }
    struct rlimit r = {100, 200};
    must(!setrlimit(RLIMIT_NPROC, &r), "rlimit");
    fprintf(out, "pid %d zombie %d child %d\n", getpid(), zombie, child);
    fprintf(out, "fds %d %d %d %d %d %d %d %d %d %d %d %d %d\n", p[0], p[1], efd, sfd, tfd, ep, file, twin, ghost,
            pair[0], pair[1], l, mfd);
    fprintf(out, "memory %p %p %p %p\n", (void *)mm, (void *)beats, (void *)priv, (char *)top + 65536);
    fprintf(out, "alternate %p\n", (void *)alternate);
}

/* ---- timed waits ---- */

struct wait { int how; long ms; };

static void *waiter(void *arg) {
    struct wait *w = arg;
    struct timespec t = {w->ms / 1000, w->ms % 1000 * 1000000}, rem;
    static int word;
    flockfile(out);
    fprintf(out, "wait %d %d %ld %lld\n", gettid(), w->how, w->ms, now());
    fflush(out);
    funlockfile(out);
    long long begun = now();
    switch (w->how) {
    case 0: syscall(SYS_nanosleep, &t, NULL); break;
    case 1: syscall(SYS_nanosleep, &t, &rem); break;
    case 2: poll(0, 0, (int)w->ms); break;
    case 3: syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t, 0, 0); break;
    case 4: nanosleep(&t, &t); break;
    }
    flockfile(out);
    fprintf(out, "woke %d %lld\n", gettid(), now() - begun);
    fflush(out);
    funlockfile(out);
    for (;;) pause();
}

static void waits(void) {
    static struct wait all[] = {{0, 3000}, {1, 3100}, {2, 3200}, {3, 3300}, {4, 3400}, {0, 3000}, {2, 3000}};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        pthread_t t;
        must(!pthread_create(&t, 0, waiter, &all[i]), "thread");
        usleep(20000);
    }
    usleep(300000);
}

static pthread_barrier_t crowd_ready;

static void *idle(void *arg) {
    (void)arg;
    pthread_barrier_wait(&crowd_ready);
    for (;;) pause();
}

static void crowd(int count) {
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 65536);
    pthread_barrier_init(&crowd_ready, 0, count);
    for (int i = 1; i < count; i++) {
        pthread_t t;
        must(!pthread_create(&t, &attr, idle, 0), "thread");
    }
    pthread_barrier_wait(&crowd_ready);
}

static void large(long bytes) {
    char *all = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(all != MAP_FAILED && !madvise(all, bytes, MADV_NOHUGEPAGE), "large");
    for (long at = 0; at < bytes; at += 4096) all[at] = 1;
    fprintf(out, "large %p\n", (void *)all);
}

int main(int argc, char **argv) {
    folder = argv[1];
    setsid();
    close_range(3, ~0U, 0);
    out = fopen(in_folder("told"), "w");
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "rich")) rich();
        else if (!strcmp(argv[i], "waits")) waits();
        else if (!strcmp(argv[i], "crowd")) crowd(atoi(argv[++i]));
        else if (!strcmp(argv[i], "large")) large(atol(argv[++i]) << 20);
        else make(argv[i]);
    }
    fprintf(out, "self %d\nready\n", getpid());
    fflush(out);
    for (;;) {
        pause();
        if (usr1) {
            fprintf(out, "still here\n");
            fflush(out);
            usr1 = 0;
        }
    }
}
