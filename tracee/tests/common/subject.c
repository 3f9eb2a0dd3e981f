// Programs to be held, one a mode. Each says "ready" on stdout when it stands where the test wants
// it, and later what became of it. See the tests for what each mode is for.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    line[len++] = '\n';
    if (write(1, line, len) != len) _exit(9);
}

static void listen_stdin(void) {
    char c;
    while (read(0, &c, 1) == 1 && c != '\n') {}
}

// A child that cannot outlive us by mistake.
static pid_t fork_bound(void) {
    pid_t pid = fork();
    if (pid == 0) prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid;
}

static long long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static volatile sig_atomic_t caught[65];
static volatile int sender[65], code[65], value[65];
static void on_signal(int n, siginfo_t *info, void *context) {
    (void)context;
    caught[n]++;
    sender[n] = info->si_pid;
    code[n] = info->si_code;
    value[n] = info->si_value.sival_int;
}

static void handle(int n, int flags) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | flags};
    sigaction(n, &action, NULL);
}

static void block(int n) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, n);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

// One blocking call. Those with a timeout wait 400 ms; the others are ended by the test.
static long one_wait(const char *kind) {
    struct timespec t400 = {0, 400000000};
    struct timespec abs400;
    clock_gettime(CLOCK_MONOTONIC, &abs400);
    abs400.tv_nsec += 400000000;
    abs400.tv_sec += abs400.tv_nsec / 1000000000;
    abs400.tv_nsec %= 1000000000;
    struct timeval v400 = {0, 400000};
    int pair[2], pipes[2], word = 0;
    char byte;
    struct epoll_event event;
    sigset_t none, alarm;
    sigemptyset(&none);
    sigemptyset(&alarm);
    sigaddset(&alarm, SIGUSR2);
    if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return -100;
    struct pollfd polled = {pipes[0], POLLIN, 0};
#define IS(name) (strcmp(kind, name) == 0)
    if (IS("nanosleep")) return syscall(SYS_nanosleep, &t400, NULL);
    if (IS("clock_nanosleep")) return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t400, NULL);
    if (IS("clock_nanosleep_abs"))
        return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &abs400, NULL);
    if (IS("poll")) return syscall(SYS_poll, &polled, 1, 400);
    if (IS("ppoll")) return syscall(SYS_ppoll, &polled, 1, &t400, &none, 8);
    if (IS("select")) {
        fd_set set;
        FD_ZERO(&set);
        FD_SET(pipes[0], &set);
        return syscall(SYS_select, pipes[0] + 1, &set, NULL, NULL, &v400);
    }
    if (IS("futex")) return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &t400, NULL, 0);
    if (IS("futex_abs"))
        return syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &abs400, NULL, ~0);
    if (IS("epoll_wait")) return syscall(SYS_epoll_wait, epoll_create1(0), &event, 1, 400);
    if (IS("epoll_pwait"))
        return syscall(SYS_epoll_pwait, epoll_create1(0), &event, 1, 400, &none, 8);
    if (IS("epoll_pwait2"))
        return syscall(SYS_epoll_pwait2, epoll_create1(0), &event, 1, &t400, &none, 8);
    if (IS("semtimedop")) {
        int id = semget(IPC_PRIVATE, 1, 0600);
        struct sembuf op = {0, -1, 0};
        struct timespec t = t400;
        long result = syscall(SYS_semtimedop, id, &op, 1, &t);
        int saved = errno;
        semctl(id, 0, IPC_RMID);
        errno = saved;
        return result;
    }
    if (IS("sigtimedwait")) {
        sigprocmask(SIG_BLOCK, &alarm, NULL);
        return syscall(SYS_rt_sigtimedwait, &alarm, NULL, &t400, 8);
    }
    if (IS("recv_timeout")) {
        setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &v400, sizeof v400);
        return read(pair[0], &byte, 1);
    }
    if (IS("read_pipe")) return read(0, &byte, 1);
    if (IS("flock")) {
        int a = open("/proc/self/exe", O_RDONLY), b = open("/proc/self/exe", O_RDONLY);
        flock(a, LOCK_EX);
        if (fork_bound() == 0) { // keeps the lock until the test says so
            close(b);
            listen_stdin();
            _exit(0);
        }
        close(a);
        return flock(b, LOCK_EX);
    }
    if (IS("wait4")) {
        if (fork_bound() == 0) {
            listen_stdin();
            _exit(7);
        }
        int status = 0;
        long pid = syscall(SYS_wait4, -1, &status, 0, NULL);
        return pid < 0 ? pid : WEXITSTATUS(status);
    }
    if (IS("msgrcv")) {
        int id = msgget(IPC_PRIVATE, 0600);
        if (fork_bound() == 0) {
            listen_stdin();
            struct { long type; char text[1]; } message = {1, {0}};
            msgsnd(id, &message, 1, 0);
            _exit(0);
        }
        struct { long type; char text[1]; } message;
        long result = msgrcv(id, &message, 1, 0, 0);
        int saved = errno;
        msgctl(id, IPC_RMID, NULL);
        errno = saved;
        return result;
    }
    if (IS("accept")) {
        int server = socket(AF_UNIX, SOCK_STREAM, 0);
        struct sockaddr_un any = {AF_UNIX, ""};
        bind(server, (void *)&any, sizeof(sa_family_t));
        socklen_t len = sizeof any;
        getsockname(server, (void *)&any, &len);
        listen(server, 1);
        if (fork_bound() == 0) {
            listen_stdin();
            int client = socket(AF_UNIX, SOCK_STREAM, 0);
            if (connect(client, (void *)&any, len)) _exit(1);
            pause();
        }
        return accept(server, NULL, NULL) >= 0 ? 0 : -1;
    }
    if (IS("pause")) return handle(SIGUSR1, 0), pause();
    if (IS("sigsuspend")) {
        handle(SIGUSR1, 0);
        block(SIGUSR1);
        return sigsuspend(&none);
    }
    return -200;
}

static int wait_mode(const char *kind) {
    say("ready");
    long long before = now_us();
    errno = 0;
    long result = one_wait(kind);
    int error = errno;
    say("%ld %d %lld", result, result < 0 ? error : 0, now_us() - before);
    return 0;
}

// Sets what SIGTRAP does, then checks that it still does.
static int sigtrap_mode(const char *how) {
    struct sigaction action, after;
    memset(&action, 0, sizeof action);
    int blocked = strstr(how, "block") != NULL;
    action.sa_handler = strstr(how, "ignore") ? SIG_IGN : SIG_DFL;
    if (strstr(how, "handle")) action.sa_sigaction = on_signal, action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, NULL);
    if (blocked) block(SIGTRAP);
    if (strstr(how, "pend")) raise(SIGTRAP);
    say("ready");
    listen_stdin();
    sigset_t mask, pending;
    sigaction(SIGTRAP, NULL, &after);
    sigprocmask(SIG_BLOCK, NULL, &mask);
    sigpending(&pending);
    int right = after.sa_handler == action.sa_handler && sigismember(&mask, SIGTRAP) == blocked &&
                sigismember(&pending, SIGTRAP) == (strstr(how, "pend") != NULL);
    say("%s %d %d %d", right ? "kept" : "lost", (int)caught[SIGTRAP], sender[SIGTRAP],
        code[SIGTRAP]);
    return 0;
}

// Catches some signals, blocks others, queues some, tells about them when asked.
static int signals_mode(void) {
    handle(SIGUSR1, SA_RESTART);
    handle(SIGTRAP, SA_RESTART);
    handle(40, SA_RESTART);
    block(40);
    for (int i = 1; i <= 3; i++) sigqueue(getpid(), 40, (union sigval){.sival_int = i});
    say("ready");
    listen_stdin();
    int pended = 0, order = 1;
    sigset_t forty;
    sigemptyset(&forty);
    sigaddset(&forty, 40);
    siginfo_t info;
    struct timespec zero = {0, 0};
    while (sigtimedwait(&forty, &info, &zero) == 40) order &= info.si_value.sival_int == ++pended;
    say("usr1 %d %d trap %d %d %d queued %d %d", (int)caught[SIGUSR1], sender[SIGUSR1],
        (int)caught[SIGTRAP], sender[SIGTRAP], code[SIGTRAP], pended, order);
    return 0;
}

// Spins inside a restartable sequence until told to stop, or aborted.
static volatile int section_flag;
static volatile long aborted;
static int rseq_mode(void) {
    struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
    extern char section_start[], section_end[], section_abort[];
    say("%p %p %p %p %p", (void *)section_start, (void *)section_end, (void *)section_abort,
        (void *)&section_flag, (void *)&aborted);
    long finished = 0;
    for (;;) {
        int was_aborted = 0;
        __asm__ volatile(
            ".pushsection .data.rseq_cs, \"aw\"\n"
            ".balign 32\n"
            "section_cs: .long 0, 0\n"
            ".quad section_start, section_end - section_start, section_abort\n"
            ".popsection\n"
            "lea section_cs(%%rip), %%rax\n"
            "mov %%rax, %1\n"
            ".globl section_start\nsection_start:\n"
            "cmpl $0, %2\n"
            "je section_start\n"
            ".globl section_end\nsection_end:\n"
            "jmp 2f\n"
            ".byte 0x0f, 0xb9, 0x3d\n"
            ".long %c3\n"
            ".globl section_abort\nsection_abort:\n"
            "movl $1, %0\n"
            "2:\n"
            : "+m"(was_aborted), "=m"(*(uint64_t *)&area->rseq_cs)
            : "m"(section_flag), "i"(RSEQ_SIG)
            : "rax", "memory", "cc");
        if (was_aborted) aborted++;
        else finished++;
        if (section_flag) break;
    }
    say("finished %ld aborted %ld", finished, aborted);
    return 0;
}

static void *idle(void *arg) {
    (void)arg;
    for (;;) pause();
}

static void *worker(void *arg) {
    for (;;) ++*(volatile unsigned long *)arg;
}

// So many threads; some work, most sleep.
static int threads_mode(int count) {
    static volatile unsigned long work[2];
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 65536);
    for (int i = 0; i < count - 1; i++) {
        pthread_t thread;
        int fail = pthread_create(&thread, &attr, i < 2 ? worker : idle,
                                  i < 2 ? (void *)&work[i] : NULL);
        if (fail) return say("cannot: %s", strerror(fail)), 1;
    }
    say("ready");
    for (;;) {
        listen_stdin();
        unsigned long before = work[0] + work[1];
        while (work[0] + work[1] == before) sched_yield();
        say("alive");
    }
}

static void *short_lived(void *arg) {
    long long until = now_us() + 2000;
    while (now_us() < until) sched_yield();
    return arg;
}

static void *thread_maker(void *arg) {
    for (;;) {
        pthread_t threads[20];
        int made = 0;
        while (made < 20 && pthread_create(&threads[made], NULL, short_lived, arg) == 0) made++;
        while (made > 0) pthread_join(threads[--made], NULL);
    }
}

// Keeps forking children that fork children, and making threads.
static int storm_mode(void) {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pthread_t thread;
    pthread_create(&thread, NULL, thread_maker, NULL);
    say("ready");
    for (int alive = 0;;) {
        if (alive < 8 && fork() == 0) {
            for (int i = 0; i < 3; i++)
                if (fork() == 0) _exit(0);
            while (wait(NULL) > 0) {}
            if (fork() == 0) { // outlives its parent: an ancestor inherits it
                for (volatile int i = 0; i < 100000; i++) {}
                _exit(0);
            }
            _exit(0);
        }
        alive++;
        while (waitpid(-1, NULL, alive < 8 ? WNOHANG : 0) > 0) alive--;
    }
}

// Beats: writes a rising number to shared memory, so that the test sees whether it runs.
static int beat_mode(void) {
    volatile unsigned long *beat =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    say("%p", (void *)beat);
    for (;;) {
        ++*beat;
        usleep(200);
    }
}

// One mapping of each kind; pages written by pattern.
static int memory_mode(const char *path) {
    const size_t page = 4096, pages = 64;
    int fd = open(path, O_RDONLY);
    char *all[7];
    int none = MAP_PRIVATE | MAP_ANONYMOUS;
    all[0] = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, none, -1, 0);
    all[1] = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    all[2] = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, none, -1, 0);
    all[3] = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, none, -1, 0);
    char *area = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, none, -1, 0);
    all[4] = (char *)(((uintptr_t)area + (2 << 20) - 1) & ~(uintptr_t)((2 << 20) - 1));
    madvise(all[4], 2 << 20, MADV_HUGEPAGE);
    all[5] = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    all[6] = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, none, -1, 0);
    volatile char sum = 0;
    for (size_t i = 0; i < pages; i++) {
        if (i % 3 == 0) all[0][i * page + i] = 'A' + i % 26;
        if (i % 3 == 1) sum += all[0][i * page]; // the zero page
        if (i % 4 == 0) all[1][i * page + 7] = 'B';
        if (i % 4 == 1) sum += all[1][i * page]; // clean page of the file
        all[2][i * page] = 'N';
        all[3][i * page] = 'R';
        if (i % 5 == 0) all[5][i * page] = 'S';
        if (i % 2 == 0) all[6][i * page] = 'D';
    }
    all[4][5] = 'H';
    madvise(all[6] + 8 * page, 8 * page, MADV_DONTNEED);
    mprotect(all[2], pages * page, PROT_NONE);
    mprotect(all[3], pages * page, PROT_READ);
    say("%p %p %p %p %p %p %p", (void *)all[0], (void *)all[1], (void *)all[2], (void *)all[3],
        (void *)all[4], (void *)all[5], (void *)all[6]);
    listen_stdin();
    mprotect(all[2], pages * page, PROT_READ);
    say("%.5s %.5s", all[2], all[3]);
    listen_stdin();
    return 0;
}

// Exits its main thread; another goes on.
static int headless_mode(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, idle, NULL);
    say("ready");
    pthread_exit(NULL);
}

// Fills vector registers with a pattern, spins on them, and looks whether they stayed.
static int vector_mode(void) {
    say("ready");
    double pattern[4] __attribute__((aligned(32))) = {1.5, -2.25, 3.125, 4e300};
    double after[4] __attribute__((aligned(32)));
    static volatile int go;
    say("%p", (void *)&go);
    __asm__ volatile(
        "vmovapd %1, %%ymm7\n"
        "1: cmpl $0, %2\n"
        "je 1b\n"
        "vmovapd %%ymm7, %0\n"
        : "=m"(after)
        : "m"(pattern), "m"(go)
        : "xmm7", "cc", "memory");
    say("%g %g %g %g", after[0], after[1], after[2], after[3]);
    return 0;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "", *arg = argc > 2 ? argv[2] : "";
    if (strcmp(mode, "wait") == 0) return wait_mode(arg);
    if (strcmp(mode, "sigtrap") == 0) return sigtrap_mode(arg);
    if (strcmp(mode, "signals") == 0) return signals_mode();
    if (strcmp(mode, "rseq") == 0) return rseq_mode();
    if (strcmp(mode, "threads") == 0) return threads_mode(atoi(arg));
    if (strcmp(mode, "storm") == 0) return storm_mode();
    if (strcmp(mode, "beat") == 0) return beat_mode();
    if (strcmp(mode, "memory") == 0) return memory_mode(arg);
    if (strcmp(mode, "headless") == 0) return headless_mode();
    if (strcmp(mode, "vector") == 0) return vector_mode();
    fprintf(stderr, "no mode %s\n", mode);
    return 2;
}
