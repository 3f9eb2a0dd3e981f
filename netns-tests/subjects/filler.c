/* Much memory: `mib N` (64), `random PERCENT` of it incompressible (50), the rest text-like; every
 * page is checked. `dirty KIB` of it are rewritten with each beat (0). `threads N` more only wait (0). */
#include "subject.h"

static void *wait_forever(void *argument) {
    for (;;) pause();
    return argument;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    size_t pages = (size_t)option_number("mib", 64) << 8;
    long percent = option_number("random", 50), dirty = option_number("dirty", 0) / 4;
    char *block = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *rounds = calloc(pages, sizeof *rounds);
    MUST(block != MAP_FAILED && rounds);
    for (size_t i = 0; i < pages; i++) fill_page(block + i * PAGE, i, 0, percent);
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
            fill_page(block + at * PAGE, at, ++rounds[at], percent);
        }
    }
    beat();

    if (sabotage) block[pages / 2 * PAGE + 77] ^= 1;
    char wanted[PAGE];
    for (size_t i = 0; i < pages; i++) {
        fill_page(wanted, i, rounds[i], percent);
        CHECK(!memcmp(wanted, block + i * PAGE, PAGE), "page %zu (round %u) differs", i, rounds[i]);
    }
    verdict();
}
