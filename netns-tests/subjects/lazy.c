/* What a program may do to memory that has not come yet: asked while most of it is missing.
 * `core 1` lets it leave a core file in the shared directory. */
#include "subject.h"
#include <spawn.h>
#include <sys/resource.h>

#define PAGE 4096ul
#define MIB (1ul << 20)
#define RW (PROT_READ | PROT_WRITE)
#define AREA (4 * MIB)

enum { TOUCHED, FORKED, MOVED, GROWN, UNMAPPED, DROPPED, FREED, THREADED, LOCKED, CALLED, CHILDS, REST, AREAS };

static char *areas[AREAS];

static uint64_t seed_of(int area, size_t page) { return (uint64_t)area * 100000 + page; }

static bool page_is(int area, const char *at, size_t page) {
    return differs(at, PAGE, seed_of(area, page)) < 0;
}

static void check_pages(int area, const char *at, size_t from, size_t to, const char *what) {
    for (size_t page = from; page < to; page++)
        if (!page_is(area, at + page * PAGE, page)) {
            complain("%s: page %zu is not as it was", what, page);
            return;
        }
}

static void check_zero(const char *at, size_t size, const char *what) {
    for (size_t i = 0; i < size; i++)
        if (at[i]) {
            complain("%s: byte %zu is not zero", what, i);
            return;
        }
}

static void *toucher(void *argument) {
    /* All threads wait for the same pages, in different orders. */
    size_t number = (size_t)argument, pages = AREA / PAGE, bad = 0;
    for (size_t i = 0; i < pages; i++) {
        size_t page = number % 2 ? pages - 1 - i : i;
        bad += !page_is(THREADED, areas[THREADED] + page * PAGE, page);
    }
    return (void *)bad;
}

static void fork_and_look(void) {
    pid_t child = fork();
    MUST(child >= 0);
    if (!child) {
        size_t pages = AREA / PAGE;
        for (size_t page = 0; page < pages; page++) {
            if (!page_is(FORKED, areas[FORKED] + page * PAGE, page)) _exit(1);
            areas[FORKED][page * PAGE] ^= 0x55; /* its own copy */
        }
        /* A grandchild misses what is still missing, too. */
        pid_t grandchild = fork();
        if (!grandchild) _exit(page_is(CHILDS, areas[CHILDS] + 7 * PAGE, 7) ? 18 : 2);
        int status = 0;
        if (grandchild < 0 || waitpid(grandchild, &status, 0) != grandchild || !WIFEXITED(status) || WEXITSTATUS(status) != 18) _exit(3);
        if (!page_is(CHILDS, areas[CHILDS] + 8 * PAGE, 8)) _exit(4);
        _exit(17);
    }
    check_exit(child, 17, "a child that looked at memory that was missing");
    check_pages(FORKED, areas[FORKED], 0, AREA / PAGE, "what a child wrote to");
}

static void run_others(void) {
    char *words[] = {"true", NULL};
    pid_t child = fork();
    MUST(child >= 0);
    if (!child) {
        execv("/bin/true", words);
        _exit(1);
    }
    check_exit(child, 0, "a child that ran another program");
    MUST(!posix_spawn(&child, "/bin/true", NULL, NULL, words, NULL));
    check_exit(child, 0, "a spawned program");
    child = fork();
    MUST(child >= 0);
    if (!child) {
        /* Killed while it waits for a page, perhaps. */
        for (size_t page = 0;; page = (page + 17) % (AREA / PAGE)) (void)*(volatile char *)(areas[REST] + page * PAGE);
    }
    sleep_ns(5 * MS);
    kill(child, SIGKILL);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status), "a killed child: status %x", status);
}

static void call_the_kernel(void) {
    char *at = areas[CALLED], back[PAGE];
    int ends[2];
    MUST(!pipe(ends));
    /* write(2) from a missing page, read(2) into one. */
    CHECK_EQUAL(write(ends[1], at + 3 * PAGE, PAGE), PAGE, "write from a missing page");
    CHECK_EQUAL(read(ends[0], back, PAGE), PAGE, "read of what was written");
    CHECK(page_is(CALLED, back, 3), "what was written from a missing page");
    CHECK_EQUAL(write(ends[1], back, 100), 100, "write");
    CHECK_EQUAL(read(ends[0], at + 200 * PAGE + 50, 100), 100, "read into a missing page");
    CHECK(!memcmp(at + 200 * PAGE + 50, back, 100), "what was read into a missing page");
    fill(back, PAGE, seed_of(CALLED, 200));
    CHECK(!memcmp(at + 200 * PAGE, back, 50) && !memcmp(at + 200 * PAGE + 150, back + 150, PAGE - 150), "what was around it");
    struct stat status;
    CHECK(!stat("/", (struct stat *)(at + 300 * PAGE)) && !stat("/", &status), "stat into a missing page: %s", strerror(errno));
    close(ends[0]), close(ends[1]);
    check_pages(CALLED, at, 400, 500, "the rest");
}

int main(int argc, char **argv) {
    begin(argc, argv);
    if (option_number("core", 0)) {
        struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
        MUST(!setrlimit(RLIMIT_CORE, &all) && !chdir(shared_dir));
    }
    /* Guards between them, so that they stay apart. */
    for (int area = 0; area < AREAS; area++) {
        char *at = mmap(NULL, AREA + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        MUST(at != MAP_FAILED && !mprotect(at + PAGE, AREA, RW));
        areas[area] = at + PAGE;
        madvise(areas[area], AREA, MADV_NOHUGEPAGE);
        for (size_t page = 0; page < AREA / PAGE; page++) fill(areas[area] + page * PAGE, PAGE, seed_of(area, page));
    }
    ready();
    wait_for_question();

    size_t pages = AREA / PAGE;
    for (size_t i = 0; i < 40; i++) {
        size_t page = scramble(i) % pages;
        CHECK(page_is(TOUCHED, areas[TOUCHED] + page * PAGE, page), "page %zu is not as it was", page);
    }
    if (sabotage) areas[REST][5 * PAGE] ^= 1;

    fork_and_look();
    run_others();

    char *there = mmap(NULL, AREA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(there != MAP_FAILED);
    char *moved = mremap(areas[MOVED], AREA, AREA, MREMAP_MAYMOVE | MREMAP_FIXED, there);
    CHECK(moved == there, "mremap: %s", strerror(errno));
    if (moved == there) check_pages(MOVED, moved, 0, pages, "what was moved");
    char *grown = mremap(areas[GROWN], AREA / 2, AREA, MREMAP_MAYMOVE);
    CHECK(grown != MAP_FAILED, "mremap: %s", strerror(errno));
    if (grown != MAP_FAILED) {
        check_pages(GROWN, grown, 0, pages / 2, "what was made larger");
        check_zero(grown + AREA / 2, AREA / 2, "what came by that");
    }

    CHECK(!munmap(areas[UNMAPPED], AREA / 2), "munmap: %s", strerror(errno));
    char *anew = mmap(areas[UNMAPPED], AREA / 2, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(anew == areas[UNMAPPED], "mmap: %s", strerror(errno));
    check_zero(areas[UNMAPPED], AREA / 2, "what was mapped anew");
    check_pages(UNMAPPED, areas[UNMAPPED], pages / 2, pages, "what stayed mapped");

    CHECK(!madvise(areas[DROPPED], AREA / 2, MADV_DONTNEED), "madvise: %s", strerror(errno));
    check_zero(areas[DROPPED], AREA / 2, "what was given back");
    check_pages(DROPPED, areas[DROPPED], pages / 2, pages, "what was kept");
    CHECK(!madvise(areas[FREED], AREA / 2, MADV_FREE), "madvise: %s", strerror(errno));
    for (size_t page = 0; page < pages / 2; page++) areas[FREED][page * PAGE] = (char)page; /* writable all the same */
    check_pages(FREED, areas[FREED], pages / 2, pages, "what was not freed");

    pthread_t threads[4];
    for (size_t i = 0; i < COUNT(threads); i++) MUST(!pthread_create(&threads[i], NULL, toucher, (void *)i));
    for (size_t i = 0; i < COUNT(threads); i++) {
        void *bad = NULL;
        pthread_join(threads[i], &bad);
        CHECK(!bad, "thread %zu found %zu pages wrong", i, (size_t)bad);
    }

    CHECK(!mlock(areas[LOCKED], 64 * PAGE), "mlock: %s", strerror(errno));
    check_pages(LOCKED, areas[LOCKED], 0, 64, "what was locked");
    call_the_kernel();

    check_pages(TOUCHED, areas[TOUCHED], 0, pages, "what was touched");
    check_pages(CHILDS, areas[CHILDS], 0, pages, "what a child had touched");
    check_pages(LOCKED, areas[LOCKED], 64, pages, "what was not locked");
    check_pages(REST, areas[REST], 0, pages, "what was left alone");
    verdict();
}
