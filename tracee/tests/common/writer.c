// A program that writes to its memory at random, for ever.
//   writer anon|huge|shared|memfd       two threads, 8 MiB
//   writer file PATH                    the same in a private mapping of a file of 8 MiB
//   writer churn                        mappings that come, move, lose their pages and go
//   writer family                       forks on the first line of input, becomes another on the second
// Says where it writes, then goes on. What it says later are answers to lines of input.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { PAGE = 4096, SIZE = 8 << 20 };
static volatile uint64_t *area;
static volatile uint64_t rounds;

static uint64_t next(uint64_t *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void *writer(void *arg) {
    uint64_t seed = 88172645463325252ULL + (uintptr_t)arg;
    for (uint64_t n = 1;; n++) {
        area[next(&seed) % (SIZE / 8)] = n;
        if (n % 64 == 0) {
            rounds++;
            usleep(100);
        }
    }
}

// Answers each line once some work was done since the last.
static void *answer(void *arg) {
    uint64_t enough = (uintptr_t)arg;
    char c;
    while (read(0, &c, 1) == 1)
        if (c == '\n') {
            for (uint64_t begun = rounds; rounds < begun + enough;) usleep(100);
            printf("%lu\n", (unsigned long)rounds);
            fflush(stdout);
        }
    exit(0);
}

// Sixteen places of 64 pages each, in which mappings live.
static void churn(void) {
    enum { PLACES = 16, MOST = 64 };
    char *arena = mmap(NULL, PLACES * MOST * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("%p\n", (void *)arena);
    fflush(stdout);
    pthread_t answers;
    pthread_create(&answers, NULL, answer, (void *)200);
    uint64_t seed = 2463534242ULL;
    int pages[PLACES] = {0};
    for (;;) {
        int place = next(&seed) % PLACES, other = next(&seed) % PLACES;
        char *at = arena + place * MOST * PAGE, *to = arena + other * MOST * PAGE;
        uint64_t what = next(&seed) % 64;
        if (!pages[place]) {
            pages[place] = 1 + next(&seed) % MOST;
            if (mmap(at, pages[place] * PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at) _exit(3);
        } else if (what == 0) {
            munmap(at, pages[place] * PAGE);
            pages[place] = 0;
        } else if (what == 1) {
            madvise(at, (1 + next(&seed) % pages[place]) * PAGE, MADV_DONTNEED);
        } else if (what == 2 && place != other && !pages[other]) {
            int count = 1 + next(&seed) % MOST;
            if (mremap(at, pages[place] * PAGE, count * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
                _exit(4);
            pages[other] = count;
            pages[place] = 0;
        } else if (what == 3) {
            mprotect(at, PAGE, PROT_READ);
            mprotect(at, PAGE, PROT_READ | PROT_WRITE);
        } else {
            at[(next(&seed) % pages[place]) * PAGE + next(&seed) % PAGE] = seed >> 32;
        }
        if (rounds++ % 512 == 0) usleep(50);
    }
}

static void line(void) {
    char c;
    while (read(0, &c, 1) == 1 && c != '\n') {}
}

static void family(char *self) {
    memset((void *)area, 1, SIZE);
    line();
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        memset((void *)area, 2, SIZE / 2);
        for (;;) pause();
    }
    printf("%d\n", child);
    fflush(stdout);
    line();
    kill(child, SIGKILL);
    execl("/proc/self/exe", self, "anon", NULL);
}

int main(int argc, char **argv) {
    const char *kind = argv[1];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (strcmp(kind, "churn") == 0) churn();
    int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (strcmp(kind, "shared") == 0) flags = MAP_SHARED | MAP_ANONYMOUS;
    if (strcmp(kind, "memfd") == 0) {
        flags = MAP_SHARED;
        fd = memfd_create("writer", 0);
        if (ftruncate(fd, SIZE)) return 2;
    }
    if (argc > 2) {
        flags = MAP_PRIVATE;
        fd = open(argv[2], O_RDONLY);
    }
    // Aligned as huge pages are.
    char *room = mmap(NULL, SIZE + (2 << 20), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    room = (char *)(((uintptr_t)room + (2 << 20) - 1) & ~(uintptr_t)((2 << 20) - 1));
    area = mmap(room, SIZE, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
    if (area == MAP_FAILED) return 2;
    if (strcmp(kind, "huge") == 0) {
        madvise((void *)area, SIZE, MADV_HUGEPAGE);
        memset((void *)area, 3, SIZE);
    }
    printf("%p\n", (void *)area);
    fflush(stdout);
    if (strcmp(kind, "family") == 0) family(argv[0]);
    pthread_t threads[3];
    for (uintptr_t i = 0; i < 2; i++) pthread_create(&threads[i], NULL, writer, (void *)(i * 77));
    answer((void *)4);
}
