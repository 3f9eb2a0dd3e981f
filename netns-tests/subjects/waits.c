/* Threads that wait in the kernel, one for each way of waiting, each by the bare system call, once.
 *
 * Timed waits (`wait-ms` 4000, each a little different) must end by themselves: with the right
 * result, never EINTR, never early on the monotonic clock, and no later than the longest gap in our
 * own heartbeat plus `late-ms` (250) excuses; those marked `again` may be begun once more. We are ready only when a third of the time is over, so
 * that a wait which a migration starts afresh is later than that.
 *
 * Endless waits must not end before they are woken, and then with the right result. */
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <netinet/in.h>

#include "subject.h"

struct waiter {
    const char *name;
    void (*wait)(struct waiter *);
    void (*wake)(struct waiter *); /* NULL: it ends by itself */
    long result;                   /* wanted; for an error, -errno */
    int call;                      /* its number */
    bool coarse;                   /* the kernel itself is late by up to an eighth of such a time */
    bool wall;                     /* it waits for a time of day, which does not stand still on the way */
    bool again;                    /* the kernel keeps no time left for it: moved, it waits once more, late but never early */

    pthread_t thread;
    pid_t tid;
    uint64_t length, started, ended, wall_started, wall_ended;
    long got;
    int fds[2];
    _Atomic uint32_t word;
    pid_t child;
    volatile sig_atomic_t handled;
    const char *wrong;
    _Atomic bool begun, done;
};

static _Thread_local struct waiter *self;
static void on_signal(int number) { (void)number, self->handled++; }

static uint64_t wall_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

/* The one call. What was prepared before it does not count. */
#define WAIT(number, ...)                                                                          \
    do {                                                                                           \
        w->started = now();                                                                        \
        w->wall_started = wall_clock();                                                            \
        w->begun = true;                                                                           \
        long got_ = syscall(number, ##__VA_ARGS__);                                                \
        w->got = got_ < 0 ? -errno : got_;                                                         \
        w->ended = now();                                                                          \
        w->wall_ended = wall_clock();                                                              \
    } while (0)

static const uint64_t only_usr2 = 1ull << (SIGUSR2 - 1);
/* Another mask than that of the threads, and one in which the question, SIGUSR1, wakes nobody. */
static const uint64_t while_it_waits = 1ull << (SIGUSR1 - 1) | 1ull << (SIGUSR2 - 1) | 1ull << (SIGWINCH - 1);
/* Everything except SIGUSR2: with it in force SIGUSR2 gets through. */
static const uint64_t all_but_usr2 = ~(1ull << (SIGUSR2 - 1));
static uint64_t own_mask(void) {
    uint64_t mask = 0;
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8);
    return mask;
}

/* ---- waits that end by themselves ---- */

static void t_nanosleep(struct waiter *w) {
    struct timespec t = timespec_of(w->length), left = {77, 77};
    uint64_t start = now();
    if (sabotage) sleep_ns(w->length / 4); /* as if a migration then had it begin again */
    WAIT(SYS_nanosleep, &t, &left);
    w->started = start;
}
static void t_clock_relative(struct waiter *w) {
    struct timespec t = timespec_of(w->length);
    WAIT(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, NULL);
}
static void t_clock_same(struct waiter *w) {
    struct timespec t = timespec_of(w->length);
    WAIT(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &t, &t);
}
static void t_clock_absolute(struct waiter *w) {
    struct timespec t = timespec_of(now() + w->length);
    WAIT(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}
static void t_clock_wall(struct waiter *w) {
    struct timespec t = timespec_of(now_on(CLOCK_REALTIME) + w->length);
    WAIT(SYS_clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL);
}
static void t_poll_nothing(struct waiter *w) { WAIT(SYS_poll, NULL, 0, (int)(w->length / MS)); }
static void t_poll(struct waiter *w) {
    struct pollfd p = {.fd = w->fds[0], .events = POLLIN};
    WAIT(SYS_poll, &p, 1, (int)(w->length / MS));
}
static void t_ppoll(struct waiter *w) {
    struct pollfd p = {.fd = w->fds[0], .events = POLLIN};
    struct timespec t = timespec_of(w->length);
    WAIT(SYS_ppoll, &p, 1, &t, &while_it_waits, 8);
    if (own_mask() & ~(1ull << (SIGUSR1 - 1) | only_usr2)) w->wrong = "signal mask";
}
static void t_select(struct waiter *w) {
    fd_set reads;
    FD_ZERO(&reads);
    FD_SET(w->fds[0], &reads);
    struct timeval t = {(time_t)(w->length / SECOND), (suseconds_t)(w->length % SECOND / 1000)};
    WAIT(SYS_select, w->fds[0] + 1, &reads, NULL, NULL, &t);
}
static void t_pselect(struct waiter *w) {
    fd_set reads;
    FD_ZERO(&reads);
    FD_SET(w->fds[0], &reads);
    struct timespec t = timespec_of(w->length);
    struct { const uint64_t *mask; size_t size; } mask = {&while_it_waits, 8};
    WAIT(SYS_pselect6, w->fds[0] + 1, &reads, NULL, NULL, &t, &mask);
}
static void t_futex(struct waiter *w) {
    struct timespec t = timespec_of(w->length);
    WAIT(SYS_futex, &w->word, FUTEX_WAIT_PRIVATE, 0, &t, NULL, 0);
}
static void t_futex_absolute(struct waiter *w) {
    struct timespec t = timespec_of(now() + w->length);
    WAIT(SYS_futex, &w->word, FUTEX_WAIT_BITSET_PRIVATE, 0, &t, NULL, FUTEX_BITSET_MATCH_ANY);
}
static void t_futex_wall(struct waiter *w) {
    struct timespec t = timespec_of(now_on(CLOCK_REALTIME) + w->length);
    WAIT(SYS_futex, &w->word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &t, NULL, FUTEX_BITSET_MATCH_ANY);
}
static int epoll_on(int fd) {
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0xabcdef};
    MUST(epoll >= 0 && !epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    return epoll;
}
static void t_epoll(struct waiter *w) {
    int epoll = epoll_on(w->fds[0]);
    struct epoll_event events[2];
    WAIT(SYS_epoll_wait, epoll, events, 2, (int)(w->length / MS));
}
static void t_epoll_pwait(struct waiter *w) {
    int epoll = epoll_on(w->fds[0]);
    struct epoll_event events[2];
    WAIT(SYS_epoll_pwait, epoll, events, 2, (int)(w->length / MS), &while_it_waits, 8);
}
static void t_sigtimedwait(struct waiter *w) {
    struct timespec t = timespec_of(w->length);
    WAIT(SYS_rt_sigtimedwait, &only_usr2, NULL, &t, 8);
}
static void t_receive(struct waiter *w) {
    struct timeval t = {(time_t)(w->length / SECOND), (suseconds_t)(w->length % SECOND / 1000)};
    char byte;
    MUST(!setsockopt(w->fds[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    WAIT(SYS_recvfrom, w->fds[0], &byte, 1, 0, NULL, NULL);
}
static void t_timerfd(struct waiter *w) {
    int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    struct itimerspec spec = {.it_value = timespec_of(w->length)};
    uint64_t times = 0;
    MUST(fd >= 0 && !timerfd_settime(fd, 0, &spec, NULL));
    WAIT(SYS_read, fd, &times, 8);
    if (times != 1) w->wrong = "the number of expirations";
}

/* ---- waits that someone must end ---- */

static void put_byte(struct waiter *w) { MUST(write(w->fds[1], "k", 1) == 1); }
static void signal_it(struct waiter *w) { MUST(!syscall(SYS_tgkill, getpid(), w->tid, SIGUSR2)); }
static void check_handled(struct waiter *w, int times) {
    if (w->handled != times) w->wrong = "the number of handlers that ran";
    if (own_mask() & 1ull << (SIGUSR2 - 1) ? w->call == SYS_pause : w->call != SYS_pause) w->wrong = "the mask afterwards";
}

static void e_read(struct waiter *w) {
    char bytes[4] = "";
    WAIT(SYS_read, w->fds[0], bytes, 4);
    if (bytes[0] != 'k') w->wrong = "the byte";
}
static void e_readv(struct waiter *w) {
    char bytes[4] = "";
    struct iovec parts[2] = {{bytes, 1}, {bytes + 1, 3}};
    WAIT(SYS_readv, w->fds[0], parts, 2);
    if (bytes[0] != 'k') w->wrong = "the byte";
}
static void e_receive(struct waiter *w) {
    char bytes[4] = "";
    struct iovec part = {bytes, 4};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    WAIT(SYS_recvmsg, w->fds[0], &message, 0);
    if (bytes[0] != 'k') w->wrong = "the byte";
}
static void e_write_full(struct waiter *w) {
    char page[4096] = "";
    MUST(!fcntl(w->fds[1], F_SETFL, O_NONBLOCK));
    while (write(w->fds[1], page, sizeof page) > 0) {}
    MUST(!fcntl(w->fds[1], F_SETFL, 0));
    WAIT(SYS_write, w->fds[1], page, 100);
}
static void drain(struct waiter *w) {
    char page[4096];
    MUST(read(w->fds[0], page, sizeof page) == sizeof page);
}
static void e_eventfd(struct waiter *w) {
    uint64_t value = 0;
    w->fds[1] = eventfd(0, 0);
    WAIT(SYS_read, w->fds[1], &value, 8);
    if (value != 5) w->wrong = "the count";
}
static void count_up(struct waiter *w) { MUST(write(w->fds[1], &(uint64_t){5}, 8) == 8); }
static void e_signalfd(struct waiter *w) {
    struct signalfd_siginfo info = {0};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    int fd = signalfd(-1, &set, 0);
    WAIT(SYS_read, fd, &info, sizeof info);
    if (info.ssi_signo != SIGUSR2) w->wrong = "the signal";
}
static void e_accept(struct waiter *w) {
    w->fds[1] = socket(AF_INET, SOCK_STREAM, 0);
    MUST(!listen(w->fds[1], 3));
    WAIT(SYS_accept, w->fds[1], NULL, NULL);
    w->got = w->got >= 0 ? 1 : w->got;
}
static void e_accept_unix(struct waiter *w) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path + 1, 40, "waits-%d", getpid());
    w->fds[1] = socket(AF_UNIX, SOCK_STREAM, 0);
    MUST(!bind(w->fds[1], (void *)&at, sizeof at) && !listen(w->fds[1], 3));
    WAIT(SYS_accept4, w->fds[1], NULL, NULL, SOCK_CLOEXEC);
    w->got = w->got >= 0 ? 1 : w->got;
}
static void connect_it(struct waiter *w) {
    struct sockaddr_storage at;
    socklen_t size = sizeof at;
    MUST(!getsockname(w->fds[1], (void *)&at, &size));
    int client = socket(at.ss_family, SOCK_STREAM, 0);
    if (connect(client, (void *)&at, size)) complain("connecting to wake %s: %s", w->name, strerror(errno));
}
static void e_wait4(struct waiter *w) {
    int status = 0;
    WAIT(SYS_wait4, w->child, &status, 0, NULL);
    if (w->got == w->child) w->got = 1;
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGTERM) w->wrong = "the status";
}
static void e_waitid(struct waiter *w) {
    siginfo_t info = {0};
    WAIT(SYS_waitid, P_PID, w->child, &info, WEXITED, NULL);
    if (info.si_pid != w->child || info.si_code != CLD_KILLED) w->wrong = "the status";
}
static void end_child(struct waiter *w) { MUST(!kill(w->child, SIGTERM)); }
static void e_pause(struct waiter *w) {
    uint64_t open = 1ull << (SIGUSR1 - 1);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &open, NULL, 8);
    WAIT(SYS_pause);
    check_handled(w, 1);
}
static void e_sigsuspend(struct waiter *w) {
    WAIT(SYS_rt_sigsuspend, &all_but_usr2, 8);
    check_handled(w, 1);
}
static void e_ppoll(struct waiter *w) {
    struct pollfd p = {.fd = w->fds[0], .events = POLLIN};
    WAIT(SYS_ppoll, &p, 1, NULL, &all_but_usr2, 8);
    check_handled(w, 1);
}
static void e_epoll_pwait(struct waiter *w) {
    int epoll = epoll_on(w->fds[0]);
    struct epoll_event events[2];
    WAIT(SYS_epoll_pwait, epoll, events, 2, -1, &all_but_usr2, 8);
    check_handled(w, 1);
}
static void e_sigwait(struct waiter *w) { WAIT(SYS_rt_sigtimedwait, &only_usr2, NULL, NULL, 8); }
static void e_futex(struct waiter *w) { WAIT(SYS_futex, &w->word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0); }
static void wake_futex(struct waiter *w) {
    w->word = 1;
    MUST(syscall(SYS_futex, &w->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) >= 0);
}
static void e_poll(struct waiter *w) {
    struct pollfd p = {.fd = w->fds[0], .events = POLLIN};
    WAIT(SYS_poll, &p, 1, -1);
    if (p.revents != POLLIN) w->wrong = "what it reports";
}
static void e_select(struct waiter *w) {
    fd_set reads;
    FD_ZERO(&reads);
    FD_SET(w->fds[0], &reads);
    WAIT(SYS_select, w->fds[0] + 1, &reads, NULL, NULL, NULL);
    if (!FD_ISSET(w->fds[0], &reads)) w->wrong = "what it reports";
}
static void e_epoll(struct waiter *w) {
    int epoll = epoll_on(w->fds[0]);
    struct epoll_event events[2] = {{0}};
    WAIT(SYS_epoll_wait, epoll, events, 2, -1);
    if (events[0].data.u64 != 0xabcdef) w->wrong = "what it reports";
}

static struct waiter waiters[] = {
    {.name = "nanosleep", .wait = t_nanosleep, .call = SYS_nanosleep},
    {.name = "clock_nanosleep relative", .wait = t_clock_relative, .call = SYS_clock_nanosleep},
    {.name = "clock_nanosleep into its own argument", .wait = t_clock_same, .call = SYS_clock_nanosleep},
    {.name = "clock_nanosleep absolute", .wait = t_clock_absolute, .call = SYS_clock_nanosleep},
    {.name = "clock_nanosleep on the wall clock", .wait = t_clock_wall, .call = SYS_clock_nanosleep, .wall = true},
    {.name = "poll of nothing", .wait = t_poll_nothing, .call = SYS_poll},
    {.name = "poll with timeout", .wait = t_poll, .call = SYS_poll},
    {.name = "ppoll with timeout", .wait = t_ppoll, .call = SYS_ppoll},
    {.name = "select with timeout", .wait = t_select, .call = SYS_select},
    {.name = "pselect with timeout", .wait = t_pselect, .call = SYS_pselect6},
    {.name = "futex relative", .wait = t_futex, .result = -ETIMEDOUT, .call = SYS_futex},
    {.name = "futex absolute", .wait = t_futex_absolute, .result = -ETIMEDOUT, .call = SYS_futex},
    {.name = "futex on the wall clock", .wait = t_futex_wall, .result = -ETIMEDOUT, .call = SYS_futex, .wall = true},
    {.name = "epoll_wait with timeout", .wait = t_epoll, .call = SYS_epoll_wait, .again = true},
    {.name = "epoll_pwait with timeout", .wait = t_epoll_pwait, .call = SYS_epoll_pwait, .again = true},
    {.name = "sigtimedwait", .wait = t_sigtimedwait, .result = -EAGAIN, .call = SYS_rt_sigtimedwait, .again = true},
    {.name = "recv with SO_RCVTIMEO", .wait = t_receive, .result = -EAGAIN, .call = SYS_recvfrom, .coarse = true, .again = true},
    {.name = "read of a timerfd", .wait = t_timerfd, .result = 8, .call = SYS_read},

    {.name = "read", .wait = e_read, .wake = put_byte, .result = 1, .call = SYS_read},
    {.name = "readv", .wait = e_readv, .wake = put_byte, .result = 1, .call = SYS_readv},
    {.name = "recvmsg", .wait = e_receive, .wake = put_byte, .result = 1, .call = SYS_recvmsg},
    {.name = "write to a full socket or pipe", .wait = e_write_full, .wake = drain, .result = 100, .call = SYS_write},
    {.name = "read of an eventfd", .wait = e_eventfd, .wake = count_up, .result = 8, .call = SYS_read},
    {.name = "read of a signalfd", .wait = e_signalfd, .wake = signal_it, .result = sizeof(struct signalfd_siginfo), .call = SYS_read},
    {.name = "accept", .wait = e_accept, .wake = connect_it, .result = 1, .call = SYS_accept},
    {.name = "accept4 on a unix socket", .wait = e_accept_unix, .wake = connect_it, .result = 1, .call = SYS_accept4},
    {.name = "wait4", .wait = e_wait4, .wake = end_child, .result = 1, .call = SYS_wait4},
    {.name = "waitid", .wait = e_waitid, .wake = end_child, .result = 0, .call = SYS_waitid},
    {.name = "pause", .wait = e_pause, .wake = signal_it, .result = -EINTR, .call = SYS_pause},
    {.name = "sigsuspend", .wait = e_sigsuspend, .wake = signal_it, .result = -EINTR, .call = SYS_rt_sigsuspend},
    {.name = "ppoll with mask", .wait = e_ppoll, .wake = signal_it, .result = -EINTR, .call = SYS_ppoll},
    {.name = "epoll_pwait with mask", .wait = e_epoll_pwait, .wake = signal_it, .result = -EINTR, .call = SYS_epoll_pwait},
    {.name = "sigwaitinfo", .wait = e_sigwait, .wake = signal_it, .result = SIGUSR2, .call = SYS_rt_sigtimedwait},
    {.name = "futex", .wait = e_futex, .wake = wake_futex, .result = 0, .call = SYS_futex},
    {.name = "poll", .wait = e_poll, .wake = put_byte, .result = 1, .call = SYS_poll},
    {.name = "select", .wait = e_select, .wake = put_byte, .result = 1, .call = SYS_select},
    {.name = "epoll_wait", .wait = e_epoll, .wake = put_byte, .result = 1, .call = SYS_epoll_wait},
};
#define TIMED(w) (!(w)->wake)

static void *run(void *argument) {
    struct waiter *w = self = argument;
    w->tid = (pid_t)syscall(SYS_gettid);
    w->wait(w);
    w->done = true;
    return NULL;
}

/* Whether the thread sleeps inside of its call. */
static bool waits(struct waiter *w) {
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", w->tid);
    return w->begun && slurp(path, text, sizeof text) > 0 && atoi(text) == w->call && text[0] != 'r' && state_of(getpid(), w->tid) == 'S';
}

int main(int argc, char **argv) {
    begin(argc, argv);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    MUST(!sigaction(SIGUSR2, &action, NULL));
    MUST(!syscall(SYS_rt_sigprocmask, SIG_BLOCK, &only_usr2, NULL, 8));
    uint64_t length = (uint64_t)option_number("wait-ms", 4000) * MS, late = (uint64_t)option_number("late-ms", 250) * MS;
    for (size_t i = 0; i < COUNT(waiters); i++) {
        struct waiter *w = &waiters[i];
        w->length = length + i * 7 * MS;
        bool socket = w->call == SYS_recvfrom || w->call == SYS_recvmsg;
        MUST(!(socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, w->fds) : pipe(w->fds)));
        if (w->wake == end_child) {
            MUST((w->child = fork()) >= 0);
            if (!w->child)
                for (;;) pause();
        }
        MUST(!pthread_create(&w->thread, NULL, run, w));
    }
    for (size_t i = 0; i < COUNT(waiters); i++) {
        struct waiter *w = &waiters[i];
        if (!EVENTUALLY(waits(w))) cannot(__FILE__, __LINE__, "%s does not wait (got %ld)", w->name, w->got);
    }
    sleep_ns(length / 3);
    ready();
    wait_for_question();

    for (size_t i = 0; i < COUNT(waiters); i++) {
        struct waiter *w = &waiters[i];
        if (TIMED(w)) continue;
        CHECK(!w->done, "%s ended before it was woken, with %ld", w->name, w->got);
        if (!w->done) w->wake(w);
    }
    uint64_t end = now() + length + 10 * SECOND;
    bool all_done;
    do {
        sleep_ns(MS);
        beat();
        all_done = true;
        for (size_t i = 0; i < COUNT(waiters); i++) all_done &= waiters[i].done;
    } while (!all_done && now() < end);

    uint64_t latest = 0;
    for (size_t i = 0; i < COUNT(waiters); i++) {
        struct waiter *w = &waiters[i];
        if (!w->done) {
            complain("%s does not end", w->name);
            continue;
        }
        CHECK(w->got == w->result, "%s returned %ld, wanted %ld", w->name, w->got, w->result);
        CHECK(!w->wrong, "%s: %s", w->name, w->wrong);
        if (!TIMED(w)) continue;
        uint64_t took = w->wall ? w->wall_ended - w->wall_started : w->ended - w->started;
        uint64_t most = w->length + longest_gap + late + (w->coarse ? w->length / 8 : 0) + (w->again ? w->length : 0);
        if (!w->coarse && !w->again && took > w->length && took - w->length > latest) latest = took - w->length;
        /* The wall clock may be stepped by a millisecond while we look. */
        CHECK(took + MS / 2 >= w->length, "%s ended after %llu ms, too early for %llu", w->name, (unsigned long long)(took / MS), (unsigned long long)(w->length / MS));
        CHECK(took <= most, "%s ended after %llu ms, too late for %llu (gap %llu)", w->name, (unsigned long long)(took / MS),
              (unsigned long long)(w->length / MS), (unsigned long long)(longest_gap / MS));
    }
    snprintf(extra_report, sizeof extra_report, " latest_us=%llu", (unsigned long long)latest / 1000);
    verdict();
}
