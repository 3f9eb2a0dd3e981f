// A program whose pages come late. It maps 64 pages, tells where, waits for a line, does one thing,
// and judges what it then finds: every byte of page i is i + 1, as the test fills it.
//   lazy anon|shared|memfd ACTION
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 64, PAGE = 4096 };
static unsigned char *base;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...) {
    char line[256];
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

// The first page of `count` from `first` that is not as expected (all zeros if `zero`), or -1.
static int wrong(unsigned char *from, int first, int count, int zero) {
    for (int i = first; i < first + count; i++)
        for (int at = 0; at < PAGE; at++)
            if (from[i * PAGE + at] != (zero ? 0 : i + 1)) return i;
    return -1;
}

static void judge(int bad) {
    if (bad < 0) say("ok");
    else say("page %d is wrong: %d", bad, base[bad * PAGE]);
}

static void *toucher(void *arg) {
    long seed = (long)arg;
    for (int i = 0; i < PAGES; i++) {
        int page = (i * 7 + seed * 13) % PAGES;
        int bad = wrong(base, page, 1, 0);
        if (bad >= 0) return (void *)(long)(bad + 1);
    }
    return NULL;
}

static void *fault_on_command(void *arg) {
    (void)arg;
    listen_stdin();
    say("saw %d", base[5 * PAGE]);
    return NULL;
}

static sigjmp_buf out;
static void on_bus(int n) {
    siglongjmp(out, n);
}

int main(int argc, char **argv) {
    const char *kind = argv[1], *action = argc > 2 ? argv[2] : "";
#define IS(name) (strcmp(action, name) == 0)
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (strcmp(kind, "nothing") == 0) {
        say("ok");
        return 0;
    }
    size_t size = PAGES * PAGE;
    int memfd = strcmp(kind, "memfd") == 0 ? memfd_create("lazy", 0) : -1;
    if (memfd >= 0 && ftruncate(memfd, size)) return 2;
    int flags = memfd >= 0                    ? MAP_SHARED
                : strcmp(kind, "shared") == 0 ? MAP_SHARED | MAP_ANONYMOUS
                                              : MAP_PRIVATE | MAP_ANONYMOUS;
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, memfd, 0);
    if (base == MAP_FAILED) return 2;
    madvise(base, size, MADV_NOHUGEPAGE);
    say("%p", base);
    if (IS("zeros")) {
        // The test fills in nothing: a child and a thread wait for pages that must never come.
        pid_t child = fork();
        pthread_t thread;
        pthread_create(&thread, NULL, fault_on_command, NULL);
        if (child == 0) prctl(PR_SET_PDEATHSIG, 0);
        for (;;) pause();
    }
    listen_stdin();
    if (IS("touch")) {
        pthread_t threads[4];
        void *bad = NULL;
        for (long i = 0; i < 4; i++) pthread_create(&threads[i], NULL, toucher, (void *)i);
        for (int i = 0; i < 4; i++) {
            void *one;
            pthread_join(threads[i], &one);
            if (one) bad = one;
        }
        judge((long)bad - 1);
    } else if (IS("one")) {
        judge(wrong(base, 5, 1, 0));
    } else if (IS("fork")) {
        judge(wrong(base, 0, 8, 0));
        pid_t child = fork();
        if (child == 0) {
            // A grandchild too, and writes that the parent must not see.
            pid_t grandchild = fork();
            int bad = wrong(base, 0, PAGES, 0);
            if (strcmp(kind, "anon") == 0) memset(base, 0xee, size);
            if (grandchild == 0) _exit(bad < 0 ? 0 : 1);
            int status = 1;
            waitpid(grandchild, &status, 0);
            _exit(bad < 0 && status == 0 ? 0 : 1);
        }
        int bad = wrong(base, 0, PAGES, 0), status = 1;
        waitpid(child, &status, 0);
        judge(status ? 99 : bad);
    } else if (IS("mremap")) {
        judge(wrong(base, 0, 4, 0));
        unsigned char *to = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        base = mremap(base, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        judge(base == to ? wrong(base, 0, PAGES, 0) : 99);
    } else if (IS("munmap")) {
        munmap(base + size / 2, size / 2);
        int bad = wrong(base, 0, PAGES / 2, 0);
        void *again = mmap(base + size / 2, size / 2, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (again == MAP_FAILED) bad = 98;
        judge(bad >= 0 ? bad : wrong(base, PAGES / 2, PAGES / 2, 1));
    } else if (IS("dontneed") || IS("remove")) {
        int how = IS("remove") ? MADV_REMOVE : MADV_DONTNEED;
        if (madvise(base + 8 * PAGE, 8 * PAGE, how)) say("madvise: %m");
        int bad = wrong(base, 0, 8, 0);
        if (bad < 0) bad = wrong(base, 8, 8, 1);
        if (bad < 0) bad = wrong(base, 16, PAGES - 16, 0);
        judge(bad);
    } else if (IS("free")) {
        if (madvise(base + 8 * PAGE, 8 * PAGE, MADV_FREE)) say("madvise: %m");
        // Either as before or zeros, as the manual says.
        int bad = wrong(base, 0, 8, 0);
        for (int i = 8; i < 16 && bad < 0; i++)
            if (wrong(base, i, 1, 0) >= 0 && wrong(base, i, 1, 1) >= 0) bad = i;
        judge(bad);
    } else if (IS("mlock")) {
        if (mlock(base, size)) say("mlock: %m");
        judge(wrong(base, 0, PAGES, 0));
    } else if (IS("call")) {
        // The kernel itself meets missing pages: reading, then writing, in the middle of some.
        int ends[2];
        if (pipe(ends)) return 2;
        if (write(ends[1], base + 3 * PAGE + 100, 2 * PAGE) != 2 * PAGE) say("write: %m");
        if (read(ends[0], base + 10 * PAGE + 50, 2 * PAGE) != 2 * PAGE) say("read: %m");
        int bad = wrong(base, 0, 10, 0);
        for (int i = 0; i < 2 * PAGE; i++)
            if (base[10 * PAGE + 50 + i] != (3 * PAGE + 100 + i) / PAGE + 1) bad = 10;
        for (int i = 0; i < 50; i++)
            if (base[10 * PAGE + i] != 11) bad = 10;
        if (bad < 0) bad = wrong(base, 13, PAGES - 13, 0);
        judge(bad);
    } else if (IS("poison")) {
        signal(SIGBUS, on_bus);
        if (sigsetjmp(out, 1)) say("bus");
        else say("saw %d", base[5 * PAGE]);
        judge(wrong(base, 0, 5, 0));
    } else if (IS("exec")) {
        judge(wrong(base, 0, 4, 0));
        char *args[] = {argv[0], "nothing", NULL};
        execv("/proc/self/exe", args);
    } else if (IS("exit")) {
        judge(wrong(base, 0, 4, 0));
        return 0;
    }
    return 0;
}
