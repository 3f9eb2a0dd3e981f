/* Much memory: `mib N` (64), `random PERCENT` of it incompressible (50), the rest text-like, but
 * `zero PERCENT` (0) of all written with zeros; every page is checked. `dirty KIB` of it are rewritten with each beat (0). `threads N` more only wait (0). */
#include "subject.h"

static long percent, zero;

static void fill_one(char *page, size_t number, uint32_t round) {
    if ((long)(scramble(number + 7) % 100) < zero) memset(page, 0, PAGE);
    else fill_page(page, number, round, percent);
}

static void *wait_forever(void *argument) {
    for (;;) pause();
    return argument;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    size_t pages = (size_t)option_number("mib", 64) << 8;
    long dirty = option_number("dirty", 0) / 4;
    percent = option_number("random", 50), zero = option_number("zero", 0);
    char *block = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *rounds = calloc(pages, sizeof *rounds);
    MUST(block != MAP_FAILED && rounds);
    for (size_t i = 0; i < pages; i++) fill_one(block + i * PAGE, i, 0);
    for (long i = option_number("threads", 0); i > 0; i--) {
        pthread_t thread;
        MUST(!pthread_create(&thread, NULL, wait_forever, NULL));
    }
    ready();

    sigset_t question;
    sigemptyset(&question);
    sigaddset(&question, SIGUSR1);
    const struct timespec beat_time = timespec_of(MS);
    uint64_t next = 0;
    while (sigtimedwait(&question, NULL, &beat_time) != SIGUSR1) {
        beat();
        for (long i = 0; i < dirty; i++, next++) {
            size_t at = scramble(next) % pages;
            fill_one(block + at * PAGE, at, ++rounds[at]);
        }
    }
    beat();

    if (sabotage) block[pages / 2 * PAGE + 77] ^= 1;
    char wanted[PAGE];
    for (size_t i = 0; i < pages; i++) {
        fill_one(wanted, i, rounds[i]);
        CHECK(!memcmp(wanted, block + i * PAGE, PAGE), "page %zu (round %u) differs", i, rounds[i]);
    }
    verdict();
}
