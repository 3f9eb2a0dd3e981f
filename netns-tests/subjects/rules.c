/* seccomp(2): filters that all threads have, one that a thread has alone, strict mode; and guard pages. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/socket.h>

#include "subject.h"

#define PAGE 4096ul
#define GUARD_INSTALL 102

/* System call `number` fails with `error`, everything else is allowed. */
static long forbid(int number, int error, unsigned flags) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {COUNT(code), code};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}
static int error_of(long result) { return result < 0 ? errno : 0; }
static long status_number(const char *name) {
    static _Thread_local char text[8192];
    if (slurp("/proc/thread-self/status", text, sizeof text) <= 0) return -1;
    char *at = strstr(text, name);
    return at ? strtol(at + strlen(name), NULL, 10) : -1;
}

static _Atomic int asked, lone;

static void *other(void *unused) {
    (void)unused;
    while (!asked) sleep_ns(MS);
    CHECK_EQUAL(error_of(syscall(SYS_mkdir, "/nowhere/at/all", 0700)), 77, "mkdir of the other thread");
    asked = 2;
    while (asked != 3) sleep_ns(MS);
    CHECK_EQUAL(error_of(syscall(SYS_symlink, "a", "/nowhere/at/all")), 79, "symlink of the other thread");
    asked = 4;
    return NULL;
}

/* In a process whose threads differ. */
static void *alone(void *unused) {
    (void)unused;
    MUST(!forbid(SYS_link, 81, SECCOMP_FILTER_FLAG_LOG));
    lone = 1;
    while (lone != 2) sleep_ns(MS);
    lone = error_of(syscall(SYS_link, "a", "/nowhere/at/all")) == 81 ? 3 : 4;
    return NULL;
}
static void mixed(int tell) {
    char byte;
    pthread_t thread;
    MUST(!pthread_create(&thread, NULL, alone, NULL));
    while (lone != 1) sleep_ns(MS);
    MUST(write(tell, "r", 1) == 1 && read(tell, &byte, 1) == 1);
    bool free_ = error_of(syscall(SYS_link, "a", "/nowhere/at/all")) == ENOENT;
    lone = 2;
    while (lone == 2) sleep_ns(MS);
    _exit(free_ && lone == 3 ? 31 : 1);
}

/* Nothing but read, write and exit from here on. */
static void strict(int tell) {
    char byte;
    MUST(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    (void)!write(tell, "r", 1);
    while (read(tell, &byte, 1) == 1) (void)!write(tell, &byte, 1);
    syscall(SYS_exit, 32);
}

static pid_t child(void (*body)(int), int *tell) {
    int ends[2];
    MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    pid_t pid = fork();
    MUST(pid >= 0);
    if (!pid) close(ends[0]), body(ends[1]);
    close(ends[1]);
    char byte;
    MUST(read(ends[0], &byte, 1) == 1);
    *tell = ends[0];
    return pid;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    char *guarded = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(guarded != MAP_FAILED);
    fill(guarded, 8 * PAGE, 1), fill(guarded + 40 * PAGE, 8 * PAGE, 2);
    /* Linux before 6.13 has none; before 6.15 nobody can tell them. */
    bool guards = !madvise(guarded + 16 * PAGE, 3 * PAGE, GUARD_INSTALL) && !madvise(guarded + 41 * PAGE, PAGE, GUARD_INSTALL);
    int to_mixed, to_strict;
    pid_t first = child(mixed, &to_mixed), second = child(strict, &to_strict);
    pthread_t thread;
    MUST(!pthread_create(&thread, NULL, other, NULL));
    MUST(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(!forbid(SYS_mkdir, 77, SECCOMP_FILTER_FLAG_TSYNC) && !forbid(SYS_rmdir, 78, SECCOMP_FILTER_FLAG_TSYNC));
    /* Sooner would be too soon: a call that its end of the tree must make. */
    MUST(!forbid(SYS_mmap, 80, SECCOMP_FILTER_FLAG_TSYNC));
    ready();
    wait_for_question();

    if (sabotage) kill(second, SIGKILL), (void)!madvise(guarded + 16 * PAGE, 3 * PAGE, 103);
    CHECK_EQUAL(error_of(syscall(SYS_mkdir, "/nowhere/at/all", 0700)), 77, "mkdir");
    CHECK_EQUAL(error_of(syscall(SYS_rmdir, "/nowhere/at/all")), 78, "rmdir");
    CHECK_EQUAL(error_of(syscall(SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)), 80, "mmap");
    CHECK_EQUAL(error_of(syscall(SYS_unlink, "/nowhere/at/all")), ENOENT, "unlink");
    CHECK_EQUAL(status_number("Seccomp:"), 2, "the mode");
    CHECK_EQUAL(status_number("Seccomp_filters:"), 3, "the number of filters");
    asked = 1;
    CHECK(EVENTUALLY(asked == 2), "the other thread is gone");
    CHECK_EQUAL(forbid(SYS_symlink, 79, SECCOMP_FILTER_FLAG_TSYNC), 0, "another filter for all threads");
    asked = 3;
    CHECK(EVENTUALLY(asked == 4), "the other thread is gone");
    char byte = 'x';
    CHECK(write(to_mixed, &byte, 1) == 1, "the process whose threads differ");
    check_exit(first, 31, "the process whose threads differ");
    CHECK(write(to_strict, "y", 1) == 1 && read(to_strict, &byte, 1) == 1 && byte == 'y', "the strict process is silent");
    shutdown(to_strict, SHUT_WR);
    check_exit(second, 32, "the strict process");
    check_filled(guarded, 8 * PAGE, 1, "memory before the guard pages");
    int tube[2];
    MUST(!pipe(tube));
    for (size_t i = 0; guards && i < 64; i++) {
        bool guard = (i >= 16 && i < 19) || i == 41;
        /* The kernel may not touch a guard page either. */
        CHECK((write(tube[1], guarded + i * PAGE, 1) == 1) == !guard, "page %zu is %sguarded", i, guard ? "not " : "");
    }
    verdict();
}
