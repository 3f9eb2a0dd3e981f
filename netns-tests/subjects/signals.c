/* Handlers with their flags and masks, ignored signals, pending ones (of the process and of threads,
 * queued in order with what they carry), masks and signal stacks. */
#include "subject.h"

static volatile sig_atomic_t runs, deepest, depth;
static volatile void *ran_at;
static volatile int ran_value, blocked_inside;
static _Atomic bool threads_ready, threads_go;
static _Atomic int thread_wrong;

static void on_info(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    int here;
    sigset_t mask;
    ran_at = &here;
    ran_value = info->si_value.sival_int;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    blocked_inside = sigismember(&mask, SIGWINCH) && sigismember(&mask, SIGRTMIN + 6) && !sigismember(&mask, SIGURG);
    runs++;
}

static void on_nested(int number) {
    runs++;
    if (++depth > deepest) deepest = depth;
    if (depth < 3) raise(number);
    depth--;
}

static void install(int number, void (*plain)(int), void (*info)(int, siginfo_t *, void *), int flags, int masked) {
    struct sigaction action = {.sa_flags = flags};
    sigemptyset(&action.sa_mask);
    if (masked) sigaddset(&action.sa_mask, masked);
    if (info) action.sa_sigaction = info;
    else action.sa_handler = plain;
    MUST(!sigaction(number, &action, NULL));
}

/* What the kernel holds of every signal: handler, flags, restorer, mask. */
struct kernel_action { void *handler; unsigned long flags; void *restorer; uint64_t mask; };
static struct kernel_action before[65], after[65];
static void read_actions(struct kernel_action *into) {
    for (int s = 1; s <= 64; s++) syscall(SYS_rt_sigaction, s, NULL, &into[s], 8);
}

/* The C library's sigtimedwait reports SI_TKILL as SI_USER; this one does not. */
static int take(const sigset_t *set, siginfo_t *info) {
    return (int)syscall(SYS_rt_sigtimedwait, set, info, &(struct timespec){0}, 8);
}

static void check_next(const sigset_t *set, int number, int code, int value, const char *what) {
    siginfo_t info = {0};
    int got = take(set, &info);
    CHECK(got == number, "%s: got signal %d (%s), wanted %d", what, got, got < 0 ? strerror(errno) : "", number);
    if (got != number) return;
    CHECK(info.si_code == code, "%s: code %d, wanted %d", what, info.si_code, code);
    if (code == SI_QUEUE) CHECK(info.si_value.sival_int == value, "%s: value %d, wanted %d", what, info.si_value.sival_int, value);
    if (code == CLD_EXITED) CHECK(info.si_status == value, "%s: status %d, wanted %d", what, info.si_status, value);
    else CHECK(info.si_pid == getpid() && info.si_uid == getuid(), "%s: sent by %d", what, info.si_pid);
}

static void *other_thread(void *argument) {
    (void)argument;
    sigset_t mine;
    sigemptyset(&mine);
    sigaddset(&mine, SIGRTMIN + 4);
    sigaddset(&mine, SIGTERM);
    MUST(!pthread_sigmask(SIG_BLOCK, &mine, NULL));
    for (int i = 0; i < 3; i++) MUST(!pthread_sigqueue(pthread_self(), SIGRTMIN + 4, (union sigval){.sival_int = 70 + i}));
    MUST(!pthread_kill(pthread_self(), SIGTERM));
    threads_ready = true;
    while (!threads_go) sleep_ns(MS);
    siginfo_t info;
    if (take(&mine, &info) != SIGTERM || info.si_code != SI_TKILL) thread_wrong = 1;
    for (int i = 0; i < 3; i++)
        if (take(&mine, &info) != SIGRTMIN + 4 || info.si_value.sival_int != 70 + i || info.si_code != SI_QUEUE) thread_wrong = 2 + i;
    if (take(&mine, &info) >= 0) thread_wrong = 9;
    return NULL;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    static char alternate[64 << 10];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate}, stack_now;
    MUST(!sigaltstack(&stack, NULL));
    install(SIGHUP, NULL, on_info, SA_SIGINFO | SA_ONSTACK | SA_RESTART, SIGRTMIN + 6);
    install(SIGWINCH, NULL, on_info, SA_SIGINFO, SIGRTMIN + 6);
    install(SIGIO, on_nested, NULL, SA_NODEFER, 0);
    install(SIGVTALRM, on_nested, NULL, SA_RESETHAND, 0);
    install(SIGTRAP, SIG_IGN, NULL, 0, 0);
    install(SIGPIPE, SIG_IGN, NULL, 0, 0);
    install(SIGRTMAX, on_nested, NULL, 0, SIGHUP);
    install(SIGCHLD, on_nested, NULL, SA_NOCLDSTOP, 0);

    sigset_t blocked, mask_before, mask_after;
    sigemptyset(&blocked);
    int held[] = {SIGUSR2, SIGQUIT, SIGCHLD, SIGRTMIN + 1, SIGRTMIN + 2, SIGWINCH, SIGTRAP};
    for (size_t i = 0; i < COUNT(held); i++) sigaddset(&blocked, held[i]);
    MUST(!sigprocmask(SIG_BLOCK, &blocked, NULL));
    pid_t me = getpid(), child = fork();
    MUST(child >= 0);
    if (!child) _exit(5);
    siginfo_t unused;
    MUST(!waitid(P_PID, (id_t)child, &unused, WEXITED)); /* reaped, yet its signal stays pending */
    MUST(!kill(me, SIGUSR2) && !sigqueue(me, SIGQUIT, (union sigval){.sival_int = 31}));
    for (int i = 0; i < 5; i++) MUST(!sigqueue(me, SIGRTMIN + 1, (union sigval){.sival_int = 10 + i}));
    for (int i = 0; i < 3; i++) MUST(!pthread_sigqueue(pthread_self(), SIGRTMIN + 2, (union sigval){.sival_int = 20 + i}));
    MUST(!sigqueue(me, SIGRTMIN + 2, (union sigval){.sival_int = 23}));
    pthread_t other;
    MUST(!pthread_create(&other, NULL, other_thread, NULL) && EVENTUALLY(threads_ready));
    read_actions(before);
    sigprocmask(SIG_BLOCK, NULL, &mask_before);
    ready();
    wait_for_question();

    if (sabotage) take(&blocked, NULL);
    read_actions(after);
    for (int s = 1; s <= 64; s++)
        CHECK(!memcmp(&before[s], &after[s], sizeof before[s]), "the action of signal %d: handler %p, was %p; flags 0x%lx, were 0x%lx; mask 0x%llx, was 0x%llx",
              s, after[s].handler, before[s].handler, after[s].flags, before[s].flags, (unsigned long long)after[s].mask, (unsigned long long)before[s].mask);
    sigprocmask(SIG_BLOCK, NULL, &mask_after);
    for (int s = 1; s <= SIGRTMAX; s++) CHECK_EQUAL(sigismember(&mask_after, s), sigismember(&mask_before, s), "a bit of the mask");
    MUST(!sigaltstack(NULL, &stack_now));
    CHECK(stack_now.ss_sp == alternate && stack_now.ss_size == sizeof alternate && !stack_now.ss_flags, "the signal stack");
    CHECK(runs == 0, "a handler ran that should not");

    sigset_t one;
#define ONLY(number) (sigemptyset(&one), sigaddset(&one, (number)), &one)
    check_next(ONLY(SIGUSR2), SIGUSR2, SI_USER, 0, "SIGUSR2");
    check_next(ONLY(SIGQUIT), SIGQUIT, SI_QUEUE, 31, "SIGQUIT");
    check_next(ONLY(SIGCHLD), SIGCHLD, CLD_EXITED, 5, "SIGCHLD");
    for (int i = 0; i < 5; i++) check_next(ONLY(SIGRTMIN + 1), SIGRTMIN + 1, SI_QUEUE, 10 + i, "a queued signal of the process");
    for (int i = 0; i < 4; i++) check_next(ONLY(SIGRTMIN + 2), SIGRTMIN + 2, SI_QUEUE, 20 + i, "a queued signal of the thread");
    CHECK(take(&blocked, NULL) < 0, "a signal is pending that should not");

    raise(SIGPIPE);
    sigqueue(me, SIGHUP, (union sigval){.sival_int = 555});
    CHECK(runs == 1 && ran_value == 555, "the SIGHUP handler ran %d times with %d", (int)runs, ran_value);
    CHECK((char *)ran_at >= alternate && (char *)ran_at < alternate + sizeof alternate, "the SIGHUP handler ran at %p", (void *)ran_at);
    CHECK(blocked_inside, "the mask inside of the handler");
    raise(SIGIO);
    CHECK_EQUAL(deepest, 3, "the depth of the SA_NODEFER handler");
    depth = 2;
    raise(SIGVTALRM);
    struct sigaction reset;
    CHECK(!sigaction(SIGVTALRM, NULL, &reset) && reset.sa_handler == SIG_DFL, "SA_RESETHAND did not");
    threads_go = true;
    pthread_join(other, NULL);
    CHECK(!thread_wrong, "the other thread's pending signals (%d)", thread_wrong);
    verdict();
}
