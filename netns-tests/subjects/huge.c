/* Memory of huge pages: private (open, read-only, without access, without a reservation), anonymous and shared with a
 * child, and a memfd with holes. With `vast 1` another memfd has more than any machine could give. Needs pages of 2 MiB, or leave to make them (vm.nr_overcommit_hugepages). */
#include "subject.h"

#define HUGE (2ul << 20)
#define RW (PROT_READ | PROT_WRITE)

static char *huge(size_t pages, int flags) {
    char *at = mmap(NULL, pages * HUGE, RW, MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT | flags, -1, 0);
    MUST(at != MAP_FAILED);
    return at;
}

static bool is_zero(const char *at, size_t size) { return !at[0] && !memcmp(at, at + 1, size - 1); }

int main(int argc, char **argv) {
    begin(argc, argv);
    struct conversation *shared = (void *)huge(1, MAP_SHARED);
    fill(shared->pattern, sizeof shared->pattern, 55);
    pid_t child = start_answerer(shared);

    char *open_pages = huge(3, MAP_PRIVATE), *read_only = huge(1, MAP_PRIVATE), *none = huge(1, MAP_PRIVATE);
    char *unreserved = huge(64, MAP_PRIVATE | MAP_NORESERVE);
    fill(open_pages, 2 * HUGE, 71); /* the third page stays a hole */
    fill(read_only, HUGE, 72);
    fill(none, HUGE, 73);
    fill(unreserved + 40 * HUGE, 4096, 74);
    MUST(!mprotect(read_only, HUGE, PROT_READ) && !mprotect(none, HUGE, PROT_NONE));
    MUST(!madvise(open_pages, 3 * HUGE, MADV_DONTDUMP));

    int memfd = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | 21u << MAP_HUGE_SHIFT);
    MUST(memfd >= 0 && !ftruncate(memfd, 2 * HUGE));
    char *through = mmap(NULL, 2 * HUGE, RW, MAP_SHARED, memfd, 0);
    char *tail = mmap(NULL, HUGE, PROT_READ, MAP_SHARED, memfd, (off_t)HUGE);
    MUST(through != MAP_FAILED && tail != MAP_FAILED);
    fill(through + HUGE, HUGE / 2, 75);
    MUST(lseek(memfd, 4711, SEEK_SET) == 4711 && !fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
    if (option_number("vast", 0)) MUST(!ftruncate(memfd_create("vast", MFD_HUGETLB | 21u << MAP_HUGE_SHIFT), 1l << 40));
    ready();
    wait_for_question();

    if (sabotage) open_pages[HUGE + 4097] ^= 1;
    char *all[] = {(char *)shared, open_pages, read_only, none, unreserved, through, tail};
    for (size_t i = 0; i < COUNT(all); i++) CHECK(has_flag(all[i], "ht"), "mapping %zu has no huge pages", i);
    CHECK(has_flag(open_pages, "dd"), "MADV_DONTDUMP is lost");
    CHECK(has_flag(unreserved, "nr"), "MAP_NORESERVE is lost");
    CHECK(!has_flag(read_only, "wr") && !has_flag(none, "rd"), "a protection is lost");
    check_filled(open_pages, 2 * HUGE, 71, "open memory");
    CHECK(is_zero(open_pages + 2 * HUGE, HUGE), "the hole in it");
    check_filled(read_only, HUGE, 72, "read-only memory");
    MUST(!mprotect(none, HUGE, PROT_READ));
    check_filled(none, HUGE, 73, "memory without access");
    check_filled(unreserved + 40 * HUGE, 4096, 74, "memory without a reservation");
    CHECK(is_zero(unreserved + 40 * HUGE + 4096, HUGE - 4096), "the rest of its page");
    check_filled(through + HUGE, HUGE / 2, 75, "the memfd");
    check_filled(tail, HUGE / 2, 75, "the end of the memfd, mapped twice");
    CHECK(is_zero(through, HUGE), "the hole in the memfd");
    CHECK_EQUAL(lseek(memfd, 0, SEEK_CUR), 4711, "the offset of the memfd");
    CHECK_EQUAL(fcntl(memfd, F_GET_SEALS), F_SEAL_SHRINK, "the seals of the memfd");
    struct stat status;
    CHECK(!fstat(memfd, &status) && status.st_size == (off_t)(2 * HUGE) && status.st_blksize == (blksize_t)HUGE,
          "the memfd has %ld bytes in pages of %ld", (long)status.st_size, (long)status.st_blksize);

    /* All of it can be used. */
    fill(open_pages, 3 * HUGE, 81);
    check_filled(open_pages, 3 * HUGE, 81, "open memory, filled again");
    fill(through + HUGE, HUGE, 82);
    check_filled(tail, HUGE, 82, "the memfd, filled again");
    check_answerer(shared, child);
    verdict();
}
