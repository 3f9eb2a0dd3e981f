/* Memory that keeps changing. `mib N` (64), `random PERCENT` of it incompressible (50); a thread
 * rewrites random pages, whole, at `rate MIB` (50) per second, or as fast as it can for 0; `hot
 * PERCENT` (100) says of how much of the memory, and so does `hot_mib N`, of which it takes the pages
 * in turn. With `direct 1` it has a file open with O_DIRECT; with `file 1` the memory is a private
 * mapping of a file, every other page of which it has made its own; with `sweep 1` it writes to every
 * page once more before the verdict, which may take no page faults: nobody watches it.
 * The main thread only beats its heart, so that the longest gap is the standstill that the process saw
 * and nothing of its own work.
 *
 * Before the verdict, `result.samples` gets a line `written AT_US PAGES` for each tenth of a second.
 */
#include <sys/resource.h>

#include "subject.h"

enum { TENTHS = 6000 };

static char *block;
static uint32_t *rounds;
static size_t pages, hot;
static long percent, rate;
static volatile bool stop;
static bool in_turn;
static uint64_t total, began;
static uint32_t tenths[TENTHS];

static void *writer(void *argument) {
    /* Time that went by without this thread is not made up for, beyond 10 ms. */
    const uint64_t per_page = rate ? SECOND * PAGE / ((uint64_t)rate << 20) : 0, patience = 10 * MS;
    uint64_t due = now();
    for (uint64_t dice = 0; !stop; dice++) {
        if (per_page) {
            uint64_t t = now();
            if (t > due + patience) due = t - patience;
            if (t < due) {
                sleep_ns(due - t > MS ? due - t : MS);
                continue;
            }
            due += per_page;
        }
        size_t i = (in_turn ? total : scramble(dice)) % hot;
        fill_page(block + i * PAGE, i, ++rounds[i], percent);
        uint64_t tenth = (now() - began) / (100 * MS);
        if (tenth < TENTHS) tenths[tenth]++;
        total++;
    }
    return argument;
}

/* A file with the same content as the memory has in the beginning, which both hosts see. */
static int backing(void) {
    char path[PATH_MAX], page[PAGE];
    snprintf(path, sizeof path, "%s/backing-%d", shared_dir, getpid());
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    MUST(file >= 0);
    for (size_t i = 0; i < pages; i++) {
        fill_page(page, i, 0, percent);
        MUST(write(file, page, PAGE) == PAGE);
    }
    return file;
}

/* Writes to every page, and tells how many page faults that took. */
static long sweep(void) {
    struct rusage before, after;
    MUST(!getrusage(RUSAGE_THREAD, &before));
    for (size_t i = 0; i < pages; i++) fill_page(block + i * PAGE, i, ++rounds[i], percent);
    MUST(!getrusage(RUSAGE_THREAD, &after));
    return after.ru_minflt - before.ru_minflt;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    pages = (size_t)option_number("mib", 64) << 8;
    percent = option_number("random", 50), rate = option_number("rate", 50);
    hot = pages * (size_t)option_number("hot", 100) / 100;
    const size_t hot_mib = (size_t)option_number("hot_mib", 0);
    if (hot_mib) hot = hot_mib << 8, in_turn = true;
    MUST(hot <= pages);
    if (option_number("direct", 0)) MUST(open("/proc/self/exe", O_RDONLY | O_DIRECT) >= 0);
    int behind = -1;
    if (option_number("file", 0)) behind = backing();
    block = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | (behind < 0 ? MAP_ANONYMOUS : 0), behind, 0);
    MUST(block != MAP_FAILED && hot && (rounds = calloc(pages, sizeof *rounds)));
    if (behind >= 0) close(behind);
    for (size_t i = 0; i < pages; i += behind < 0 ? 1 : 2) fill_page(block + i * PAGE, i, 0, percent);
    began = now();
    pthread_t thread;
    MUST(!pthread_create(&thread, NULL, writer, rounds));
    ready();
    wait_for_question();
    stop = true;
    pthread_join(thread, NULL);

    if (option_number("sweep", 0)) {
        long first = sweep(), second = sweep();
        CHECK(first < (long)pages / 100 && second < (long)pages / 100, "writing to %zu pages took %ld page faults, then %ld", pages, first, second);
    }
    FILE *file = samples_file();
    for (int i = 0; file && i < TENTHS && began + (uint64_t)i * 100 * MS < now(); i++)
        fprintf(file, "written %llu %u\n", (unsigned long long)(began / 1000 + (uint64_t)i * 100000), tenths[i]);
    if (file) fclose(file);
    if (sabotage) block[pages / 2 * PAGE + 77] ^= 1;
    for (size_t i = 0; i < pages; i++)
        CHECK(is_page(block + i * PAGE, i, rounds[i], percent), "page %zu (round %u) differs", i, rounds[i]);
    snprintf(extra_report, sizeof extra_report, " written=%llu", (unsigned long long)total);
    verdict();
}
