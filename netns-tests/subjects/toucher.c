/* Memory that is looked at while it arrives. `mib N` (32) of known content, `random PERCENT` of it
 * incompressible (50); `threads N` (2) look at a random page once per `us N` (1000) microseconds,
 * and one more writes to a random page of another eighth as often, and knows what it wrote.
 *
 * Each access is timed, and mincore(2) tells before it whether the page is there: one that is not
 * has to come from wherever the process came from. On SIGUSR2, and before the verdict, the file
 * `result.samples` gets what was seen:
 *
 *   present B0 B1 …       accesses of pages that were there, by log2 of their microseconds
 *   missing B0 B1 …       of pages that were not
 *   wait AT_US WAIT_US W  each of the latter: when (monotonic), how long, whether it was a write
 */
#include "subject.h"

enum { BUCKETS = 32, WAITS = 1 << 17, READERS = 64 };

struct wait { uint64_t at; uint32_t us, write; };
static uint64_t buckets[2][BUCKETS]; /* present, missing */
static struct wait *waits;
static uint64_t wait_count;

static char *block, *written;
static uint32_t *rounds;
static size_t pages, written_pages;
static long percent, period_us;
static volatile bool stop;

/* True if the page was missing. */
static bool touch(char *page, bool write) {
    unsigned char there = 1;
    mincore(page, PAGE, &there);
    uint64_t before = now();
    if (write) (*(volatile char *)page)++, (*(volatile char *)page)--;
    else (void)*(volatile char *)page;
    uint64_t us = (now() - before) / 1000;
    int bucket = us ? 63 - __builtin_clzll(us) : 0;
    __atomic_fetch_add(&buckets[!(there & 1)][bucket < BUCKETS ? bucket : BUCKETS - 1], 1, __ATOMIC_RELAXED);
    if (there & 1) return false;
    uint64_t at = __atomic_fetch_add(&wait_count, 1, __ATOMIC_RELAXED);
    if (at < WAITS) waits[at] = (struct wait){before / 1000, (uint32_t)us, write};
    return true;
}

static void *reader(void *argument) {
    uint64_t dice = (uint64_t)(uintptr_t)argument << 32;
    while (!stop) {
        size_t i = scramble(dice++) % pages;
        touch(block + i * PAGE, false);
        if (!is_page(block + i * PAGE, i, 0, percent)) return complain("page %zu differs", i), NULL;
        sleep_ns((uint64_t)period_us * 1000);
    }
    return argument;
}

static void *writer(void *argument) {
    for (uint64_t dice = 1ull << 60; !stop; dice++) {
        size_t i = scramble(dice) % written_pages;
        char *page = written + i * PAGE;
        touch(page, true);
        if (!is_page(page, i, rounds[i], percent)) return complain("written page %zu differs in round %u", i, rounds[i]), NULL;
        fill_page(page, i, ++rounds[i], percent);
        sleep_ns((uint64_t)period_us * 1000);
    }
    return argument;
}

static void tell(void) {
    FILE *file = samples_file();
    if (!file) return;
    static const char *names[] = {"present", "missing"};
    for (int which = 0; which < 2; which++) {
        fprintf(file, "%s", names[which]);
        for (int i = 0; i < BUCKETS; i++) fprintf(file, " %llu", (unsigned long long)buckets[which][i]);
        fprintf(file, "\n");
    }
    uint64_t count = wait_count < WAITS ? wait_count : WAITS;
    for (uint64_t i = 0; i < count; i++)
        fprintf(file, "wait %llu %u %u\n", (unsigned long long)waits[i].at, waits[i].us, waits[i].write);
    fclose(file);
}

static char *map(size_t size) {
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(at != MAP_FAILED);
    return at;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    pages = (size_t)option_number("mib", 32) << 8;
    written_pages = pages / 8;
    percent = option_number("random", 50), period_us = option_number("us", 1000);
    block = map(pages * PAGE), written = map(written_pages * PAGE);
    waits = (void *)map(WAITS * sizeof *waits);
    MUST(rounds = calloc(written_pages, sizeof *rounds));
    for (size_t i = 0; i < pages; i++) fill_page(block + i * PAGE, i, 0, percent);
    for (size_t i = 0; i < written_pages; i++) fill_page(written + i * PAGE, i, 0, percent);

    sigset_t questions;
    sigemptyset(&questions);
    sigaddset(&questions, SIGUSR1);
    sigaddset(&questions, SIGUSR2);
    MUST(!sigprocmask(SIG_BLOCK, &questions, NULL));
    long count = option_number("threads", 2);
    pthread_t threads[READERS + 1];
    MUST(count >= 0 && count <= READERS);
    for (long i = 0; i < count; i++) MUST(!pthread_create(&threads[i], NULL, reader, (void *)(i + 1)));
    MUST(!pthread_create(&threads[count], NULL, writer, rounds));
    ready();

    const struct timespec beat_time = timespec_of(MS);
    int question;
    while ((question = sigtimedwait(&questions, NULL, &beat_time)) != SIGUSR1) {
        beat();
        if (question == SIGUSR2) tell();
    }
    beat();
    stop = true;
    for (long i = 0; i <= count; i++) pthread_join(threads[i], NULL);
    tell();

    if (sabotage) block[pages / 2 * PAGE + 77] ^= 1;
    for (size_t i = 0; i < pages; i++) CHECK(is_page(block + i * PAGE, i, 0, percent), "page %zu differs", i);
    for (size_t i = 0; i < written_pages; i++)
        CHECK(is_page(written + i * PAGE, i, rounds[i], percent), "written page %zu (round %u) differs", i, rounds[i]);
    snprintf(extra_report, sizeof extra_report, " waits=%llu", (unsigned long long)wait_count);
    verdict();
}
