/* Interval timers (real, virtual, profiling) and POSIX timers: ids, signals, values, time left. */
#include <sys/time.h>

#include "subject.h"

typedef int timer_id;
static volatile sig_atomic_t alarms, ticks, thread_ticks, wrong_value, wrong_thread, once_count;
static volatile uint64_t once_at;
static timer_id tick_timer;
static pid_t worker_tid;
static _Atomic bool stop;

static void on_alarm(int number) { (void)number, alarms++; }
static void on_tick(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    if (info->si_code != SI_TIMER || info->si_value.sival_int != 0x1234 || info->si_timerid != tick_timer) wrong_value++;
    ticks++;
}
static void on_thread_tick(int number, siginfo_t *info, void *context) {
    (void)number, (void)context, (void)info;
    if (syscall(SYS_gettid) != worker_tid) wrong_thread++;
    thread_ticks++;
}
static void on_once(int number) { (void)number, once_at = now(), once_count++; }

static void install(int number, void (*plain)(int), void (*info)(int, siginfo_t *, void *)) {
    struct sigaction action = {.sa_flags = SA_RESTART | (info ? SA_SIGINFO : 0)};
    if (info) action.sa_sigaction = info;
    else action.sa_handler = plain;
    MUST(!sigaction(number, &action, NULL));
}

static timer_id create(clockid_t clock, int notify, int number, int value, pid_t tid) {
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = number, .sigev_value.sival_int = value};
    event._sigev_un._tid = tid;
    timer_id id = -1;
    MUST(!syscall(SYS_timer_create, clock, &event, &id));
    return id;
}

static void arm(timer_id id, int flags, uint64_t value, uint64_t interval) {
    struct itimerspec spec = {timespec_of(interval), timespec_of(value)};
    MUST(!syscall(SYS_timer_settime, id, flags, &spec, NULL));
}

/* Time passes for the program only while it runs: the gap may or may not have counted. */
static void check_left(uint64_t is, uint64_t was, uint64_t at, const char *what) {
    uint64_t passed = now() - at, slack = 20 * MS + longest_gap;
    CHECK(is <= was - passed + slack && is + slack >= was - passed, "%s has %llu ms left, wanted %llu", what,
          (unsigned long long)(is / MS), (unsigned long long)((was - passed) / MS));
}

static void check_timer(timer_id id, uint64_t was, uint64_t interval, uint64_t at, const char *what) {
    struct itimerspec spec;
    if (syscall(SYS_timer_gettime, id, &spec)) {
        complain("%s (id %d): %s", what, id, strerror(errno));
        return;
    }
    uint64_t left = (uint64_t)spec.it_value.tv_sec * SECOND + (uint64_t)spec.it_value.tv_nsec;
    CHECK_EQUAL((uint64_t)spec.it_interval.tv_sec * SECOND + (uint64_t)spec.it_interval.tv_nsec, interval, what);
    if (was) check_left(left, was, at, what);
    else CHECK(!left, "%s is armed", what);
}

static void *work(void *argument) {
    (void)argument;
    worker_tid = (pid_t)syscall(SYS_gettid);
    while (!stop) sleep_ns(MS);
    return NULL;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    install(SIGALRM, on_alarm, NULL);
    install(SIGRTMIN + 1, NULL, on_tick);
    install(SIGRTMIN + 2, NULL, on_thread_tick);
    install(SIGRTMIN + 3, on_once, NULL);
    install(SIGVTALRM, SIG_IGN, NULL);
    install(SIGPROF, SIG_IGN, NULL);
    pthread_t worker;
    MUST(!pthread_create(&worker, NULL, work, NULL) && EVENTUALLY(worker_tid));

    timer_id ids[8];
    for (int i = 0; i < 8; i++) ids[i] = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
    /* Leave gaps: ids 1, 3, 4 and 6 are taken by others. */
    int gaps[] = {1, 3, 4, 6};
    for (size_t i = 0; i < COUNT(gaps); i++) MUST(!syscall(SYS_timer_delete, ids[gaps[i]]));
    timer_id late = ids[0], disarmed = ids[2], periodic = ids[5];
    MUST(!syscall(SYS_timer_delete, ids[7]));
    tick_timer = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 0x1234, 0);
    timer_id thread_timer = create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 2, 0, worker_tid);
    timer_id once = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 3, 0, 0);
    timer_id wall = create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 4, 0, 0);
    timer_id cpu = create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_NONE, 0, 0, 0);

    struct itimerval real = {{0, 20000}, {0, 20000}}, virtual = {{3, 0}, {100, 0}}, profiling = {{0, 0}, {200, 0}}, is;
    MUST(!setitimer(ITIMER_REAL, &real, NULL) && !setitimer(ITIMER_VIRTUAL, &virtual, NULL) && !setitimer(ITIMER_PROF, &profiling, NULL));
    uint64_t at = now(), once_wanted = at + (uint64_t)option_number("once-ms", 1500) * MS;
    arm(late, 0, 100 * SECOND, 0);
    arm(periodic, 0, 50 * SECOND, 11 * SECOND);
    arm(tick_timer, 0, 30 * MS, 30 * MS);
    arm(thread_timer, 0, 25 * MS, 25 * MS);
    arm(once, TIMER_ABSTIME, once_wanted, 0);
    arm(wall, TIMER_ABSTIME, now_on(CLOCK_REALTIME) + 80 * SECOND, 0);
    arm(cpu, 0, 70 * SECOND, 0);
    MUST(EVENTUALLY(alarms && ticks && thread_ticks));
    ready();
    wait_for_question();

    /* The counts first: they stand still for no one. */
    uint64_t passed = now() - at, felt = passed - longest_gap;
    int alarms_now = alarms, ticks_now = ticks, thread_now = thread_ticks;
    if (sabotage) {
        setitimer(ITIMER_PROF, &(struct itimerval){0}, NULL);
        syscall(SYS_timer_delete, late);
    }
#define CHECK_COUNT(count, period, what)                                                                                       \
    CHECK((uint64_t)(count) <= passed / (period) + 1 && (uint64_t)(count) + 3 >= felt / (period) / 2, "%s came %d times in %llu ms", \
          what, count, (unsigned long long)(passed / MS))
    CHECK_COUNT(alarms_now, 20 * MS, "SIGALRM");
    CHECK_COUNT(ticks_now, 30 * MS, "the ticking timer's signal");
    CHECK_COUNT(thread_now, 25 * MS, "the thread's timer's signal");
    CHECK(!wrong_value, "%d ticks with the wrong value, code or timer id", (int)wrong_value);
    CHECK(!wrong_thread, "%d ticks in the wrong thread", (int)wrong_thread);
    CHECK(EVENTUALLY(alarms > alarms_now && ticks > ticks_now && thread_ticks > thread_now), "a timer stands still");

    check_timer(late, 100 * SECOND, 0, at, "the late timer");
    check_timer(periodic, 50 * SECOND, 11 * SECOND, at, "the periodic timer");
    check_timer(wall, 80 * SECOND, 0, at, "the timer on the wall clock");
    check_timer(disarmed, 0, 0, at, "the disarmed timer");
    struct itimerspec spec;
    for (size_t i = 0; i < COUNT(gaps); i++) CHECK(syscall(SYS_timer_gettime, ids[gaps[i]], &spec) < 0 && errno == EINVAL, "timer %d has risen", gaps[i]);
    /* On clocks of CPU time: not more left than before, and not less than wall time explains. */
    CHECK(!syscall(SYS_timer_gettime, cpu, &spec), "the timer on CPU time: %s", strerror(errno));
    uint64_t left = (uint64_t)spec.it_value.tv_sec * SECOND + (uint64_t)spec.it_value.tv_nsec, most = 2 * (now() - at) + 100 * MS;
    CHECK(left <= 70 * SECOND && left + most >= 70 * SECOND, "the timer on CPU time has %llu ms left", (unsigned long long)(left / MS));
    CHECK(!getitimer(ITIMER_REAL, &is) && is.it_interval.tv_usec == 20000, "ITIMER_REAL");
    CHECK(!getitimer(ITIMER_VIRTUAL, &is) && is.it_interval.tv_sec == 3 && is.it_value.tv_sec <= 100 && (uint64_t)is.it_value.tv_sec * SECOND + most + SECOND >= 100 * SECOND,
          "ITIMER_VIRTUAL has %ld s left, every %ld s", (long)is.it_value.tv_sec, (long)is.it_interval.tv_sec);
    CHECK(!getitimer(ITIMER_PROF, &is) && !is.it_interval.tv_sec && is.it_value.tv_sec <= 200 && (uint64_t)is.it_value.tv_sec * SECOND + most + SECOND >= 200 * SECOND,
          "ITIMER_PROF has %ld s left, every %ld s", (long)is.it_value.tv_sec, (long)is.it_interval.tv_sec);

    while (!once_count && now() < once_wanted + longest_gap + 5 * SECOND) sleep_ns(MS), beat();
    CHECK_EQUAL(once_count, 1, "the number of shots of the one-shot timer");
    CHECK(once_at >= once_wanted, "the one-shot timer fired %llu ms early", (unsigned long long)((once_wanted - once_at) / MS));
    CHECK(once_at <= once_wanted + longest_gap + 200 * MS, "the one-shot timer fired %llu ms late", (unsigned long long)((once_at - once_wanted) / MS));
    stop = true;
    pthread_join(worker, NULL);
    verdict();
}
