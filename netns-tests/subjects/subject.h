/* What every subject shares: arguments, readiness, heartbeat, verdict.
 *
 *   subject --result FILE --scratch DIR --shared DIR [--sabotage] [NAME VALUE]...
 *
 * A subject makes its state, calls ready(), beats its heart in wait_for_question() until SIGUSR1
 * comes, CHECKs everything, and ends with verdict(). FILE gets the line READY, later one line
 * PASS or FAIL; it is open only while a line is written, so it is no part of the state. The exit
 * code is 0 for PASS, 1 for FAIL, 3 when the state could not be made in the first place.
 *
 * The heart beats each millisecond on the monotonic clock. The longest time between two beats is
 * what the program felt of a migration; it is also the lateness that a migration may excuse.
 */
#ifndef SUBJECT_H
#define SUBJECT_H
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MS 1000000ull /* in nanoseconds */
#define SECOND 1000000000ull

static const char *result_path, *scratch_dir, *shared_dir;
static bool sabotage;
static int extra_count;
static char **extra;

static uint64_t beats, last_beat, longest_gap;
static char complaints[3500];
static int complaint_count;
static char extra_report[200]; /* more ` name=number` for the PASS line */

/* ---- the result file ---- */

static void say(const char *line) {
    int fd = open(result_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return;
    if (write(fd, line, strlen(line)) < 0) _exit(3);
    close(fd);
}

/* The state could not be made: not a failure of any migration. */
__attribute__((format(printf, 3, 4))) UNUSED
static void cannot(const char *file, int line, const char *format, ...) {
    char text[500], what[400];
    int error = errno;
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    snprintf(text, sizeof text, "SETUP %s:%d: %s: %s\n", file, line, what, strerror(error));
    say(text);
    _exit(3);
}
#define MUST(condition) ((condition) ? (void)0 : cannot(__FILE__, __LINE__, "%s", #condition))

/* More to tell than fits in a line: a file beside the result, `result.samples`, written anew. */
UNUSED static FILE *samples_file(void) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s.samples", result_path);
    return fopen(path, "we");
}

/* Something is not as it was. All of it is told, up to a limit. */
__attribute__((format(printf, 1, 2))) UNUSED
static void complain(const char *format, ...) {
    size_t used = strlen(complaints), room = sizeof complaints - used;
    complaint_count++;
    if (room < 200) return;
    if (used) {
        strcpy(complaints + used, "; ");
        used += 2, room -= 2;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(complaints + used, room, format, args);
    va_end(args);
}
#define CHECK(condition, ...) ((condition) ? (void)0 : complain(__VA_ARGS__))
#define CHECK_EQUAL(got, wanted, what)                                                             \
    do {                                                                                           \
        long long got_ = (long long)(got), wanted_ = (long long)(wanted);                          \
        CHECK(got_ == wanted_, "%s is %lld, was %lld", what, got_, wanted_);                       \
    } while (0)

/* ---- time ---- */

UNUSED static uint64_t now_on(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}
UNUSED static uint64_t now(void) { return now_on(CLOCK_MONOTONIC); }
UNUSED static struct timespec timespec_of(uint64_t ns) {
    return (struct timespec){.tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND)};
}
UNUSED static void sleep_ns(uint64_t ns) {
    struct timespec left = timespec_of(ns);
    while (nanosleep(&left, &left) && errno == EINTR) {}
}
/* Wait until the condition holds, for at most 20 s; true if it does. */
#define EVENTUALLY(condition)                                                                      \
    ({                                                                                             \
        uint64_t end_ = now() + 20 * SECOND;                                                       \
        bool met_;                                                                                 \
        while (!(met_ = (condition)) && now() < end_) sleep_ns(MS / 2);                            \
        met_;                                                                                      \
    })

/* ---- heart ---- */

static void beat(void) {
    uint64_t t = now();
    if (last_beat && t - last_beat > longest_gap) longest_gap = t - last_beat;
    last_beat = t;
    beats++;
}

/* ---- life ---- */

UNUSED static long option_number(const char *name, long otherwise) {
    for (int i = 0; i + 1 < extra_count; i += 2)
        if (!strcmp(extra[i], name)) return strtol(extra[i + 1], NULL, 0);
    return otherwise;
}

UNUSED static void begin(int argc, char **argv) {
    int i = 1;
    for (; i < argc; i++) {
        if (!strcmp(argv[i], "--sabotage")) sabotage = true;
        else if (i + 1 < argc && !strcmp(argv[i], "--result")) result_path = argv[++i];
        else if (i + 1 < argc && !strcmp(argv[i], "--scratch")) scratch_dir = argv[++i];
        else if (i + 1 < argc && !strcmp(argv[i], "--shared")) shared_dir = argv[++i];
        else break;
    }
    extra_count = argc - i;
    extra = argv + i;
    if (!result_path || !scratch_dir || !shared_dir) {
        fprintf(stderr, "usage: %s --result FILE --scratch DIR --shared DIR [--sabotage]\n", argv[0]);
        exit(2);
    }
    /* As a daemon or a login shell: a session whose leader is inside of the tree. */
    setsid();
    /* All threads and children inherit it; only wait_for_question() takes it. */
    sigset_t question;
    sigemptyset(&question);
    sigaddset(&question, SIGUSR1);
    MUST(!sigprocmask(SIG_BLOCK, &question, NULL));
}

UNUSED static void ready(void) {
    say("READY\n");
    last_beat = beats = longest_gap = 0;
    beat();
}

/* Beat until SIGUSR1 comes. sigtimedwait may say EINTR after a stop; the caller must cope, and does. */
UNUSED static void wait_for_question(void) {
    sigset_t question;
    sigemptyset(&question);
    sigaddset(&question, SIGUSR1);
    const struct timespec beat_time = timespec_of(MS);
    while (sigtimedwait(&question, NULL, &beat_time) != SIGUSR1) beat();
    beat();
}

__attribute__((noreturn)) UNUSED static void verdict(void) {
    char line[4096];
    if (complaint_count)
        snprintf(line, sizeof line, "FAIL %d: %s\n", complaint_count, complaints);
    else
        snprintf(line, sizeof line, "PASS gap_us=%llu beats=%llu%s\n",
                 (unsigned long long)longest_gap / 1000, (unsigned long long)beats, extra_report);
    say(line);
    _exit(complaint_count ? 1 : 0);
}

/* ---- small things that many need ---- */

/* A byte string that is its own: `seed` names the place, so that no two places look alike. */
UNUSED static uint64_t scramble(uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}
UNUSED static void fill(void *at, size_t size, uint64_t seed) {
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = scramble(seed * 0x100000001b3ull + i);
        memcpy((char *)at + i, &word, size - i < 8 ? size - i : 8);
    }
}
/* The offset of the first byte that differs, or -1. */
UNUSED static long differs(const void *at, size_t size, uint64_t seed) {
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = scramble(seed * 0x100000001b3ull + i);
        if (memcmp((const char *)at + i, &word, size - i < 8 ? size - i : 8)) return (long)i;
    }
    return -1;
}
#define PAGE 4096ul
/* A page that is its own, by number and round: random bytes for `percent` of all numbers, else
 * words that repeat with a number here and there, which compress to about a quarter. */
UNUSED static void fill_page(char *page, uint64_t number, uint64_t round, long percent) {
    uint64_t seed = number * 31 + round;
    if ((long)(scramble(number) % 100) < percent) {
        fill(page, PAGE, seed);
        return;
    }
    for (size_t i = 0; i < PAGE; i += 32)
        snprintf(page + i, 32, "key:%08llx value of the page ", (unsigned long long)scramble(seed + i / 256) & 0xffffffff);
}
UNUSED static bool is_page(const char *page, uint64_t number, uint64_t round, long percent) {
    char wanted[PAGE];
    fill_page(wanted, number, round, percent);
    return !memcmp(page, wanted, PAGE);
}
UNUSED static void check_filled(const void *at, size_t size, uint64_t seed, const char *what) {
    long where = differs(at, size, seed);
    CHECK(where < 0, "%s differs at offset %ld of %zu", what, where, size);
}
UNUSED static char *path_in(const char *dir, const char *name) {
    char *path = NULL;
    MUST(asprintf(&path, "%s/%s-%d", dir, name, getpid()) > 0);
    return path;
}
/* A whole small file, ended by a zero; its length, or -1. */
UNUSED static ssize_t slurp(const char *path, char *into, size_t room) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    size_t used = 0;
    ssize_t n;
    while (used + 1 < room && (n = read(fd, into + used, room - 1 - used)) > 0) used += (size_t)n;
    into[used] = 0;
    close(fd);
    return (ssize_t)used;
}
/* What /proc/PID/smaps_rollup tells of a process, in KiB; -1 if it does not. */
UNUSED static long rollup_of(pid_t pid, const char *field) {
    static char text[64 << 10];
    char path[64], wanted[64];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    snprintf(wanted, sizeof wanted, "\n%s:", field);
    if (slurp(path, text, sizeof text) <= 0) return -1;
    char *line = strstr(text, wanted);
    return line ? strtol(line + strlen(wanted), NULL, 10) : -1;
}
/* The state letter of a task of this pid namespace. */
UNUSED static char state_of(pid_t pid, pid_t tid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", pid, tid);
    if (slurp(path, text, sizeof text) <= 0) return 0;
    char *bracket = strrchr(text, ')');
    return bracket && bracket[1] == ' ' ? bracket[2] : 0;
}
/* A child must end with this exit code, within 20 s. */
UNUSED static void check_exit(pid_t child, int code, const char *what) {
    int status = -1;
    pid_t got = 0;
    bool ended = EVENTUALLY((got = waitpid(child, &status, WNOHANG)) != 0);
    if (!ended) complain("%s (%d) does not end", what, child);
    else if (got != child) complain("%s (%d) is not my child: %s", what, child, strerror(errno));
    else CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code, "%s ended with status 0x%x, wanted exit %d",
               what, status, code);
}
/* Whether the mapping at `at` has this two-letter flag of /proc/PID/smaps. */
UNUSED static bool has_flag(const void *at, const char *flag) {
    static char text[1 << 20];
    MUST(slurp("/proc/self/smaps", text, sizeof text) > 0);
    bool here = false;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long from, to;
        char perms[5];
        if (sscanf(line, "%lx-%lx %4s", &from, &to, perms) == 3) here = from <= (unsigned long)at && (unsigned long)at < to;
        else if (here && !strncmp(line, "VmFlags:", 8)) {
            char wanted[5];
            snprintf(wanted, sizeof wanted, " %s", flag);
            return strstr(line, wanted) != NULL;
        }
    }
    return false;
}
/* A child that answers what it is asked through memory it shares, and ends with 17 when asked 1. */
struct conversation { _Atomic uint64_t question, answer; char pattern[3 * PAGE]; };
UNUSED static pid_t start_answerer(struct conversation *shared) {
    pid_t child = fork();
    MUST(child >= 0);
    if (child) return child;
    for (;;) {
        uint64_t question = shared->question;
        if (question == 1) _exit(differs(shared->pattern, sizeof shared->pattern, 55) < 0 ? 17 : 1);
        if (question) shared->answer = scramble(question);
        sleep_ns(MS);
    }
}
UNUSED static void check_answerer(struct conversation *shared, pid_t child) {
    shared->question = 4242;
    CHECK(EVENTUALLY(shared->answer == scramble(4242)), "the child no longer shares memory");
    shared->question = 1;
    check_exit(child, 17, "the child");
}
#endif
