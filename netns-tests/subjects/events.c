/* eventfd, epoll (levels, edges, one-shots, nested, data words), timerfd, signalfd. */
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include "subject.h"

static void add(int epoll, int fd, uint32_t events, uint64_t word) {
    struct epoll_event event = {.events = events, .data.u64 = word};
    MUST(!epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

/* What epoll reports for `word` now, or 0. */
static uint32_t reported(int epoll, uint64_t word) {
    struct epoll_event events[16];
    int n = epoll_wait(epoll, events, COUNT(events), 0);
    for (int i = 0; i < n; i++)
        if (events[i].data.u64 == word) return events[i].events;
    return 0;
}

static uint64_t take(int fd) {
    uint64_t value = 0;
    return read(fd, &value, 8) == 8 ? value : 0;
}

static void check_left(int fd, uint64_t was, uint64_t at, uint64_t interval, const char *what) {
    struct itimerspec left;
    CHECK(!timerfd_gettime(fd, &left), "%s: %s", what, strerror(errno));
    uint64_t is = (uint64_t)left.it_value.tv_sec * SECOND + (uint64_t)left.it_value.tv_nsec;
    uint64_t every = (uint64_t)left.it_interval.tv_sec * SECOND + (uint64_t)left.it_interval.tv_nsec;
    uint64_t passed = now() - at, slack = 20 * MS + longest_gap;
    CHECK(is <= was - passed + slack && is + slack >= was - passed, "%s has %llu ms left, wanted %llu", what,
          (unsigned long long)(is / MS), (unsigned long long)((was - passed) / MS));
    CHECK_EQUAL(every, interval, what);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    int counter = eventfd(41, EFD_NONBLOCK | EFD_CLOEXEC), semaphore = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK);
    int quiet = eventfd(0, EFD_NONBLOCK), edge = eventfd(0, EFD_NONBLOCK), once = eventfd(1, EFD_NONBLOCK), inner = eventfd(0, EFD_NONBLOCK);
    int level[2], outer_epoll = epoll_create1(EPOLL_CLOEXEC), inner_epoll = epoll_create1(0), empty_epoll = epoll_create1(0);
    MUST(counter >= 0 && semaphore >= 0 && quiet >= 0 && edge >= 0 && once >= 0 && inner >= 0);
    MUST(!pipe(level) && write(level[1], "abc", 3) == 3 && outer_epoll >= 0 && inner_epoll >= 0 && empty_epoll >= 0);
    add(outer_epoll, level[0], EPOLLIN | EPOLLRDHUP, 0x1122334455667788);
    add(outer_epoll, quiet, EPOLLIN, 2);
    add(outer_epoll, edge, EPOLLIN | EPOLLET, 3);
    add(outer_epoll, once, EPOLLIN | EPOLLONESHOT, 4);
    add(inner_epoll, inner, EPOLLIN, 5);
    add(outer_epoll, inner_epoll, EPOLLIN, 6);
    MUST(reported(outer_epoll, 4) == EPOLLIN); /* and is disarmed by that */
    MUST(!reported(outer_epoll, 4) && reported(outer_epoll, 0x1122334455667788) == EPOLLIN);

    int soon = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), late = timerfd_create(CLOCK_MONOTONIC, 0);
    int wall = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK), idle = timerfd_create(CLOCK_BOOTTIME, 0), fired = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec every = {timespec_of(10 * MS), timespec_of(10 * MS)};
    struct itimerspec in_100_s = {timespec_of(7 * SECOND), timespec_of(100 * SECOND)};
    struct itimerspec at_wall = {{0, 0}, timespec_of(now_on(CLOCK_REALTIME) + 90 * SECOND)};
    struct itimerspec at_once = {{0, 0}, {0, 1}};
    MUST(!timerfd_settime(soon, 0, &every, NULL) && !timerfd_settime(late, 0, &in_100_s, NULL));
    uint64_t armed = now();
    MUST(!timerfd_settime(wall, TFD_TIMER_ABSTIME, &at_wall, NULL) && !timerfd_settime(fired, 0, &at_once, NULL));
    MUST(idle >= 0);
    add(outer_epoll, fired, EPOLLIN, 7);
    MUST(EVENTUALLY(reported(outer_epoll, 7)));

    sigset_t mine, unseen;
    sigemptyset(&mine);
    sigaddset(&mine, SIGUSR2);
    unseen = mine;
    sigaddset(&mine, SIGRTMIN + 3);
    MUST(!sigprocmask(SIG_BLOCK, &mine, NULL));
    int signals = signalfd(-1, &mine, SFD_NONBLOCK | SFD_CLOEXEC);
    MUST(signals >= 0 && !sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 99}));
    add(outer_epoll, signals, EPOLLIN, 8);
    ready();
    uint64_t ready_at = now();
    wait_for_question();

    if (sabotage) take(counter);
    CHECK_EQUAL(take(counter), 41, "the counter");
    CHECK_EQUAL(take(counter), 0, "the counter, read twice");
    CHECK_EQUAL(fcntl(counter, F_GETFD), FD_CLOEXEC, "close-on-exec of the counter");
    for (int i = 0; i < 3; i++) CHECK_EQUAL(take(semaphore), 1, "the semaphore");
    CHECK_EQUAL(take(semaphore), 0, "the semaphore, one too many");

    CHECK_EQUAL(fcntl(outer_epoll, F_GETFD), FD_CLOEXEC, "close-on-exec of the epoll");
    CHECK_EQUAL(reported(outer_epoll, 0x1122334455667788), EPOLLIN, "the level");
    CHECK_EQUAL(reported(outer_epoll, 2), 0, "the quiet one");
    CHECK_EQUAL(reported(outer_epoll, 4), 0, "the one-shot, after its shot");
    struct epoll_event again = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 4};
    CHECK(!epoll_ctl(outer_epoll, EPOLL_CTL_MOD, once, &again), "EPOLL_CTL_MOD: %s", strerror(errno));
    CHECK_EQUAL(reported(outer_epoll, 4), EPOLLIN, "the one-shot, loaded again");
    reported(outer_epoll, 3); /* A new epoll may report an old edge once more; it may not lose a new one. */
    uint64_t one = 1;
    MUST(write(edge, &one, 8) == 8 && write(quiet, &one, 8) == 8 && write(inner, &one, 8) == 8);
    CHECK_EQUAL(reported(outer_epoll, 3), EPOLLIN, "the edge");
    CHECK_EQUAL(reported(outer_epoll, 3), 0, "the edge, a second time");
    CHECK_EQUAL(reported(outer_epoll, 2), EPOLLIN, "the quiet one, woken");
    CHECK_EQUAL(reported(inner_epoll, 5), EPOLLIN, "the inner epoll");
    CHECK_EQUAL(reported(outer_epoll, 6), EPOLLIN, "the inner epoll in the outer one");
    CHECK_EQUAL(reported(outer_epoll, 7), EPOLLIN, "the timer that has fired, by epoll");
    CHECK_EQUAL(reported(outer_epoll, 8), EPOLLIN, "the signalfd, by epoll");
    close(level[1]);
    CHECK_EQUAL(reported(outer_epoll, 0x1122334455667788), EPOLLIN | EPOLLHUP, "the level, hung up");
    CHECK_EQUAL(reported(empty_epoll, 0), 0, "the empty epoll");

    CHECK_EQUAL(take(fired), 1, "the expirations of the timer that has fired");
    uint64_t ticks = take(soon), passed = (now() - armed) / (10 * MS), missed = longest_gap / (10 * MS) + 3;
    CHECK(ticks <= passed && ticks + missed >= passed, "the periodic timer ticked %llu times in %llu0 ms", (unsigned long long)ticks,
          (unsigned long long)passed);
    uint64_t start = now();
    CHECK(EVENTUALLY(take(soon)) && now() - start < 20 * MS + longest_gap + 500 * MS, "the periodic timer stands still");
    check_left(late, 100 * SECOND, armed, 7 * SECOND, "the late timer");
    check_left(wall, 90 * SECOND, armed, 0, "the timer on the wall clock");
    struct itimerspec none;
    CHECK(!timerfd_gettime(idle, &none) && !none.it_value.tv_sec && !none.it_value.tv_nsec, "the idle timer runs");
    CHECK_EQUAL(fcntl(late, F_GETFL) & O_NONBLOCK, 0, "non-blocking of the late timer");
    CHECK(now() >= ready_at, "the clock went back");

    struct signalfd_siginfo info = {0};
    CHECK(read(signals, &info, sizeof info) == sizeof info, "the signalfd: %s", strerror(errno));
    CHECK(info.ssi_signo == (uint32_t)SIGRTMIN + 3 && info.ssi_int == 99 && info.ssi_code == SI_QUEUE && (pid_t)info.ssi_pid == getpid(),
          "the signalfd tells of signal %u, value %d, code %d, pid %u", info.ssi_signo, info.ssi_int, info.ssi_code, info.ssi_pid);
    kill(getpid(), SIGUSR2);
    CHECK(read(signals, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR2, "the signalfd's mask");
    CHECK(sigtimedwait(&unseen, NULL, &(struct timespec){0}) < 0, "a signal was left over");
    verdict();
}
