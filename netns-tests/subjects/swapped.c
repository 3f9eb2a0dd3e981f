/* Memory that is swapped out: private, shared, and what a private mapping of a file has of its own.
 *
 * `must 1`: all of it really is (the machine has swap). */
#include <sys/syscall.h>

#include "subject.h"

#define SIZE (8 << 20)

static char *areas[3];
static const char *NAMES[3] = {"private memory", "shared memory", "the private mapping of a file"};

/* How many pages of an area are in swap, as /proc/self/smaps has it: pagemap does not tell of shared memory. */
static long in_swap(const char *area) {
    FILE *smaps = fopen("/proc/self/smaps", "re");
    char line[600], start[40];
    long kib = -1;
    snprintf(start, sizeof start, "%lx-", (unsigned long)area);
    for (bool here = false; smaps && kib < 0 && fgets(line, sizeof line, smaps);) {
        if (!strncmp(line, start, strlen(start))) here = true;
        if (here) sscanf(line, "Swap: %ld kB", &kib);
    }
    if (smaps) fclose(smaps);
    return kib / 4;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    char *path = path_in(shared_dir, "mapped");
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    MUST(file >= 0 && !ftruncate(file, SIZE));
    areas[0] = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    areas[1] = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    areas[2] = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    close(file);
    long swapped[3] = {0};
    for (uint64_t i = 0; i < COUNT(areas); i++) {
        MUST(areas[i] != MAP_FAILED);
        /* Small pages: what is asked for below is a matter of each. */
        madvise(areas[i], SIZE, MADV_NOHUGEPAGE);
        fill(areas[i], SIZE, 500 + i);
    }
    if (option_number("must", 0)) {
        for (int i = 0; i < 3; i++) MUST(EVENTUALLY((madvise(areas[i], SIZE, MADV_PAGEOUT), swapped[i] = in_swap(areas[i])) > (long)(SIZE / PAGE / 2)));
    }
    snprintf(extra_report, sizeof extra_report, " swapped=%ld", swapped[0] + swapped[1] + swapped[2]);
    ready();
    wait_for_question();

    if (sabotage) areas[0][SIZE / 2]++;
    for (uint64_t i = 0; i < COUNT(areas); i++) check_filled(areas[i], SIZE, 500 + i, NAMES[i]);
    for (uint64_t i = 0; i < COUNT(areas); i++) {
        fill(areas[i], SIZE, 600 + i);
        check_filled(areas[i], SIZE, 600 + i, NAMES[i]);
    }
    verdict();
}
