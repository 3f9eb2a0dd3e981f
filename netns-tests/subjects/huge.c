/* Memory of huge pages: private (open, read-only, without access, without a reservation), anonymous and shared with a
 * child, a memfd with holes, a segment of System V, and files of the hugetlbfs SCRATCH/huge: mapped and open, one without
 * a name. Needs pages of 2 MiB, or leave to make them (vm.nr_overcommit_hugepages). With `vast 21` another memfd has more
 * than any machine could give, with `vast 30` in pages of 1 GiB; with `giant 1` there is a mapping of such a page, which
 * nobody has touched; with `private 1` a file is mapped private; with
 * `plain 1` there are neither segment nor files. */
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/vfs.h>

#include "subject.h"

#define HUGE (2ul << 20)
#define RW (PROT_READ | PROT_WRITE)

static char *huge(size_t pages, int flags) {
    char *at = mmap(NULL, pages * HUGE, RW, MAP_ANONYMOUS | MAP_HUGETLB | 21 << MAP_HUGE_SHIFT | flags, -1, 0);
    MUST(at != MAP_FAILED);
    return at;
}

#define SEGMENT (2 * HUGE - 4711)
#define GIANT (1ul << 30)

static struct { int id; char *whole, *reader; } segment;

static void make_segment(void) {
    segment.id = shmget(0x68756765, SEGMENT, IPC_CREAT | IPC_EXCL | SHM_HUGETLB | 21 << MAP_HUGE_SHIFT | 0640);
    MUST(segment.id >= 0);
    segment.whole = shmat(segment.id, NULL, 0);
    segment.reader = shmat(segment.id, NULL, SHM_RDONLY);
    MUST(segment.whole != (void *)-1 && segment.reader != (void *)-1);
    fill(segment.whole + HUGE, HUGE, 76); /* past its end too; the first page stays a hole */
}

static struct { int named, gone, unmapped; char *whole, *tail, *nameless; } files;

static int make_file(const char *name, size_t pages) {
    char path[4096];
    snprintf(path, sizeof path, "%s/huge/%s", scratch_dir, name);
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    MUST(file >= 0 && !ftruncate(file, pages * HUGE));
    return file;
}

static char *map_file(int file, size_t pages, int prot, int flags, size_t at) {
    char *mapped = mmap(NULL, pages * HUGE, prot, flags, file, (off_t)(at * HUGE));
    MUST(mapped != MAP_FAILED);
    return mapped;
}

static void make_files(void) {
    files.named = make_file("named", 3);
    files.whole = map_file(files.named, 3, RW, MAP_SHARED, 0);
    files.tail = map_file(files.named, 1, PROT_READ, MAP_SHARED, 2);
    fill(files.whole, HUGE, 77); /* the second page stays a hole */
    fill(files.whole + 2 * HUGE, 5000, 78);
    MUST(lseek(files.named, 815, SEEK_SET) == 815);
    files.gone = make_file("gone", 1);
    files.nameless = map_file(files.gone, 1, RW, MAP_SHARED, 0);
    fill(files.nameless, HUGE, 79);
    char path[4096];
    snprintf(path, sizeof path, "%s/huge/gone", scratch_dir);
    MUST(!unlink(path));
    files.unmapped = make_file("unmapped", 1);
    char *briefly = map_file(files.unmapped, 1, RW, MAP_SHARED, 0);
    fill(briefly, HUGE, 80);
    MUST(!munmap(briefly, HUGE));
    if (option_number("private", 0)) map_file(files.unmapped, 1, RW, MAP_PRIVATE, 0);
}

static bool is_zero(const char *at, size_t size) { return !at[0] && !memcmp(at, at + 1, size - 1); }

static void check_segment(void) {
    struct shmid_ds about = {0};
    CHECK(!shmctl(segment.id, IPC_STAT, &about) && shmget(0x68756765, 0, 0) == segment.id, "the segment is gone");
    CHECK_EQUAL((long)about.shm_segsz, (long)SEGMENT, "its size");
    CHECK_EQUAL((long)about.shm_nattch, 2l, "who is attached");
    CHECK_EQUAL(about.shm_perm.mode & 0777, 0640, "its mode");
    CHECK(has_flag(segment.whole, "ht") && has_flag(segment.reader, "ht"), "the segment has no huge pages");
    CHECK(!has_flag(segment.reader, "wr"), "it can be written to where it was attached for reading");
    CHECK(is_zero(segment.whole, HUGE), "the hole in it");
    check_filled(segment.reader + HUGE, HUGE, 76, "the segment");
    fill(segment.whole, HUGE, 83);
    check_filled(segment.reader, HUGE, 83, "the segment, filled again");
}

static void check_file(int file, const char *name, long pages) {
    struct stat status, there;
    struct statfs system;
    char path[4096];
    snprintf(path, sizeof path, "%s/huge/%s", scratch_dir, name);
    CHECK(!fstat(file, &status) && !fstatfs(file, &system) && (long)system.f_type == 0x958458f6, "%s is no hugetlbfs", name);
    CHECK_EQUAL((long)status.st_size, pages * (long)HUGE, "its size");
    CHECK_EQUAL(status.st_mode & 0777, 0640u, "its mode");
    CHECK_EQUAL((long)status.st_blksize, (long)HUGE, "the size of its pages");
    bool named = !stat(path, &there);
    CHECK(named == (status.st_nlink > 0) && (!named || there.st_ino == status.st_ino), "%s is another file", name);
}

static void check_files(void) {
    check_file(files.named, "named", 3);
    check_file(files.gone, "gone", 1);
    check_file(files.unmapped, "unmapped", 1);
    struct stat status;
    CHECK(!fstat(files.gone, &status) && !status.st_nlink, "the file without a name has one");
    CHECK(has_flag(files.whole, "ht") && has_flag(files.tail, "ht") && has_flag(files.nameless, "ht"), "no huge pages");
    CHECK(!has_flag(files.tail, "wr"), "what was read-only is not");
    check_filled(files.whole, HUGE, 77, "the file");
    CHECK(is_zero(files.whole + HUGE, HUGE), "the hole in it");
    check_filled(files.tail, 5000, 78, "the end of it");
    check_filled(files.nameless, HUGE, 79, "the file without a name");
    CHECK_EQUAL(lseek(files.named, 0, SEEK_CUR), 815, "the offset in it");
    static char read_back[HUGE];
    CHECK_EQUAL(pread(files.unmapped, read_back, HUGE, 0), (long)HUGE, "reading the file that nobody maps");
    check_filled(read_back, HUGE, 80, "the file that nobody maps");
    fill(files.whole + 2 * HUGE, HUGE, 84);
    check_filled(files.tail, HUGE, 84, "the file, filled again");
    fill(files.nameless, HUGE, 85);
    CHECK_EQUAL(pread(files.gone, read_back, HUGE, 0), (long)HUGE, "reading the file without a name");
    check_filled(read_back, HUGE, 85, "the file without a name, filled again");
}

/* The size of the pages of a mapping. */
static size_t page_of(const void *at) {
    FILE *maps = fopen("/proc/self/smaps", "r");
    MUST(maps);
    char line[4096];
    bool here = false;
    size_t kib = 0;
    while (fgets(line, sizeof line, maps) && !kib) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) here = from <= (unsigned long)at && (unsigned long)at < to;
        else if (here) sscanf(line, "KernelPageSize: %zu kB", &kib);
    }
    fclose(maps);
    return kib << 10;
}

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
    unsigned vast = (unsigned)option_number("vast", 0);
    if (vast) MUST(!ftruncate(memfd_create("vast", MFD_HUGETLB | vast << MAP_HUGE_SHIFT), 1l << 40));
    const int giant_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_HUGETLB | 30 << MAP_HUGE_SHIFT;
    char *giant = option_number("giant", 0) ? mmap(NULL, GIANT, RW, giant_flags, -1, 0) : NULL;
    MUST(giant != MAP_FAILED);
    bool plain = option_number("plain", 0);
    if (!plain) {
        make_segment();
        make_files();
    }
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

    CHECK(!giant || (has_flag(giant, "ht") && has_flag(giant, "nr") && page_of(giant) == GIANT), "the giant page is lost");
    if (!plain) {
        check_segment();
        check_files();
    }

    /* All of it can be used. */
    fill(open_pages, 3 * HUGE, 81);
    check_filled(open_pages, 3 * HUGE, 81, "open memory, filled again");
    fill(through + HUGE, HUGE, 82);
    check_filled(tail, HUGE, 82, "the memfd, filled again");
    check_answerer(shared, child);
    verdict();
}
