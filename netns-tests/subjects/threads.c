/* `threads N` (8) threads of five kinds, each with its own stack, TLS, name, mask and signal stack:
 * waiting on a condition, waiting on a futex, taking turns with a mutex, sleeping, reading a pipe.
 * For N up to 64 the first thread computes without pause. Woken, each examines itself and ends. */
#include <linux/futex.h>
#include <sys/rseq.h>

#include "subject.h"

enum kind { CONDITION, FUTEX, MUTEX, SLEEP, PIPE, COMPUTE };

struct thread {
    pthread_t handle;
    int number;
    enum kind kind;
    pid_t tid;
    _Atomic uint64_t count;
    _Atomic bool waits;
    uint64_t count_at_ready;
    void *signal_stack, *tls;
    const char *wrong;
};

static struct thread *threads;
static long count;
static pthread_mutex_t turns = PTHREAD_MUTEX_INITIALIZER, gate = PTHREAD_MUTEX_INITIALIZER, robust;
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static bool open_gate;
static _Atomic bool stop;
static _Atomic uint32_t futex_word = 77;
static uint64_t turns_taken;
static int wakers[2];
static _Thread_local uint64_t own[16];

static void name_of(int number, char *name) { snprintf(name, 16, "worker-%d", number); }

static sigset_t mask_of(int number) {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGRTMIN + number % 8);
    return mask;
}

static const char *examine(struct thread *me) {
    char name[16] = "", wanted[16];
    sigset_t mask, wanted_mask = mask_of(me->number);
    stack_t stack;
    name_of(me->number, wanted);
    if (differs(own, sizeof own, 100 + (uint64_t)me->number) >= 0) return "TLS content";
    if (me->tls != own) return "TLS address";
    if (syscall(SYS_gettid) != me->tid) return "tid";
    if (!pthread_equal(me->handle, pthread_self())) return "pthread_self";
    if (prctl(PR_GET_NAME, name) || strcmp(name, wanted)) return "name";
    if (pthread_sigmask(SIG_BLOCK, NULL, &mask)) return "sigmask call";
    for (int s = 1; s <= SIGRTMAX; s++)
        if (sigismember(&mask, s) != sigismember(&wanted_mask, s)) return "signal mask";
    if (sigaltstack(NULL, &stack) || stack.ss_sp != me->signal_stack || stack.ss_size != 16384) return "signal stack";
    /* The kernel writes the CPU into the registered rseq area at every return. */
    if (__rseq_size) {
        const struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
        if (area->cpu_id >= 1 << 16) return "rseq registration";
    }
    return NULL;
}

static void *run(void *argument) {
    struct thread *me = argument;
    char pattern[2000], name[16];
    fill(pattern, sizeof pattern, 200 + (uint64_t)me->number);
    fill(own, sizeof own, 100 + (uint64_t)me->number);
    me->tls = own;
    me->tid = (pid_t)syscall(SYS_gettid);
    name_of(me->number, name);
    prctl(PR_SET_NAME, name);
    sigset_t mask = mask_of(me->number);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    stack_t stack = {.ss_sp = me->signal_stack = malloc(16384), .ss_size = 16384};
    sigaltstack(&stack, NULL);
    errno = me->number;
    me->waits = true;
    char byte = 0;
    double sum = me->number;
    switch (me->kind) {
    case CONDITION:
        pthread_mutex_lock(&gate);
        while (!open_gate) pthread_cond_wait(&opened, &gate);
        pthread_mutex_unlock(&gate);
        break;
    case FUTEX:
        while (futex_word == 77) {
            long got = syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 77, NULL, NULL, 0);
            if (got && errno != EAGAIN) me->wrong = errno == EINTR ? "futex said EINTR" : "futex failed";
        }
        errno = me->number;
        break;
    case MUTEX:
        while (!stop) {
            pthread_mutex_lock(&turns);
            turns_taken++;
            me->count++;
            pthread_mutex_unlock(&turns);
            sleep_ns(MS * (1 + (uint64_t)count / 20));
        }
        errno = me->number;
        break;
    case SLEEP:
        while (!stop) {
            uint64_t start = now();
            sleep_ns(5 * MS);
            if (now() - start < 5 * MS) me->wrong = "sleep ended early";
            me->count++;
        }
        errno = me->number;
        break;
    case PIPE:
        if (read(wakers[0], &byte, 1) != 1) me->wrong = "read of the pipe";
        break;
    case COMPUTE:
        while (!stop) {
            for (int i = 0; i < 1000; i++) sum = sum * 1.0000001 + 1e-9;
            me->count++;
        }
        break;
    }
    if (errno != me->number) me->wrong = "errno";
    if (differs(pattern, sizeof pattern, 200 + (uint64_t)me->number) >= 0) me->wrong = "stack";
    const char *wrong = examine(me);
    if (wrong) me->wrong = wrong;
    return me;
}

/* Ends while it holds a robust mutex: the kernel must find its list. */
static void *take_to_the_grave(void *argument) {
    char byte;
    pthread_mutex_lock(&robust);
    *(_Atomic bool *)argument = true;
    if (read(wakers[0], &byte, 1) != 1) return NULL;
    return &robust;
}

static void *ended(pthread_t thread, const char *what, int number) {
    struct timespec deadline = timespec_of(now_on(CLOCK_REALTIME) + 20 * SECOND);
    void *result = NULL;
    int error = pthread_timedjoin_np(thread, &result, &deadline);
    CHECK(!error, "%s %d does not end: %s", what, number, strerror(error));
    if (error) verdict(); /* Its memory is not ours to look at. */
    return result;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    count = option_number("threads", 8);
    MUST(count > 0 && !pipe(wakers));
    threads = calloc((size_t)count, sizeof *threads);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 << 10);
    for (int i = 0; i < count; i++) {
        threads[i].number = i;
        threads[i].kind = i == 0 && count <= 64 ? COMPUTE : (enum kind)(i % 5);
        MUST(!pthread_create(&threads[i].handle, &small, run, &threads[i]));
    }
    static _Atomic bool holds;
    pthread_t grave;
    MUST(!pthread_create(&grave, NULL, take_to_the_grave, &holds));
    MUST(EVENTUALLY(holds));
    pid_t me = getpid();
    for (int i = 0; i < count; i++) {
        struct thread *t = &threads[i];
        bool moves = t->kind == MUTEX || t->kind == SLEEP || t->kind == COMPUTE;
        MUST(EVENTUALLY(t->waits && (moves ? t->count > 0 : state_of(me, t->tid) == 'S')));
        t->count_at_ready = t->count;
    }
    ready();
    wait_for_question();

    for (int i = 0; i < count; i++) {
        struct thread *t = &threads[i];
        if (t->kind == MUTEX || t->kind == SLEEP || t->kind == COMPUTE)
            CHECK(EVENTUALLY(t->count > t->count_at_ready), "thread %d stands still", i);
    }
    if (sabotage) prctl(PR_SET_NAME, "nobody"), threads[count / 2].tid++;
    stop = true;
    pthread_mutex_lock(&gate);
    open_gate = true;
    pthread_cond_broadcast(&opened);
    pthread_mutex_unlock(&gate);
    futex_word = 78;
    syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    for (int i = 0; i <= count; i++) MUST(write(wakers[1], "x", 1) == 1);

    uint64_t turns_counted = 0;
    for (int i = 0; i < count; i++) {
        struct thread *t = ended(threads[i].handle, "thread", i);
        CHECK(t == &threads[i], "thread %d returned nonsense", i);
        CHECK(!threads[i].wrong, "thread %d (kind %d): %s", i, threads[i].kind, threads[i].wrong);
        if (threads[i].kind == MUTEX) turns_counted += threads[i].count;
    }
    CHECK_EQUAL(turns_taken, turns_counted, "the number of turns under the mutex");
    CHECK(ended(grave, "the robust thread", 0) == &robust, "the robust thread returned nonsense");
    int error = pthread_mutex_trylock(&robust);
    CHECK(error == EOWNERDEAD, "the mutex of a dead thread says %s", strerror(error));
    verdict();
}
