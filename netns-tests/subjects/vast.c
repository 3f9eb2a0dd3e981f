/* An address space that is vast and mostly empty: 100 GiB reserved, a page here and there, and close to as many mappings as
 * Linux allows (vm.max_map_count). Argument "mappings" N. */
#include "subject.h"

#define PAGE 4096ul
#define GIB (1ul << 30)

int main(int argc, char **argv) {
    begin(argc, argv);
    size_t count = (size_t)option_number("mappings", 60000) / 2;
    char *stripes = mmap(NULL, 2 * count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *vast = mmap(NULL, 100 * GIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(stripes != MAP_FAILED && vast != MAP_FAILED);
    for (size_t i = 0; i < count; i += 64) fill(stripes + 2 * i * PAGE, PAGE, i);
    for (size_t i = 0; i < count; i++) MUST(!mprotect(stripes + 2 * i * PAGE, PAGE, PROT_READ));
    for (size_t i = 0; i < 100; i += 3) fill(vast + i * GIB + i * PAGE, PAGE, 7000 + i);
    ready();
    wait_for_question();

    if (sabotage) vast[3 * GIB + 3 * PAGE + 5] ^= 1;
    for (size_t i = 0; i < count; i += 64) check_filled(stripes + 2 * i * PAGE, PAGE, i, "a stripe");
    for (size_t i = 0; i < 100; i += 3) check_filled(vast + i * GIB + i * PAGE, PAGE, 7000 + i, "a page far away");
    int tube[2];
    MUST(!pipe(tube));
    for (size_t i = 0; i < count; i += 997) {
        /* Written to by the kernel, which asks before it does. */
        CHECK(write(tube[1], "x", 1) == 1 && read(tube[0], stripes + 2 * i * PAGE, 1) < 0 && read(tube[0], stripes + (2 * i + 1) * PAGE, 1) == 1,
              "stripe %zu has another protection", i);
    }
    CHECK(!vast[50 * GIB] && !vast[99 * GIB - 1], "a page came from nowhere");
    verdict();
}
