/* Every kind of memory, each filled with a pattern of its own, and the map itself. Argument "criu": a stock CRIU makes
 * a memfd of anonymous shared memory, which shows in its name and in nothing else. Behind it "old": that is a CRIU from
 * before 4.2, which forgets MADV_WIPEONFORK. */
#include "subject.h"

#define MIB (1ul << 20)
#define RW (PROT_READ | PROT_WRITE)

static char in_bss[MIB + 123];
static char in_data[PAGE * 3] = {1};
static const char *words = "constant data";

struct region { const char *name; char *at; size_t size; uint64_t seed; int prot; };
static struct region regions[64];
static int region_count;

static char *region(const char *name, void *at, size_t size, int prot) {
    MUST(at && at != MAP_FAILED && region_count < (int)COUNT(regions));
    struct region *r = &regions[region_count++];
    *r = (struct region){name, at, size, (uint64_t)region_count * 1000, prot};
    fill(at, size, r->seed);
    return at;
}
static char *map(size_t size, int prot, int flags) {
    char *at = mmap(NULL, size, prot, MAP_ANONYMOUS | flags, -1, 0);
    MUST(at != MAP_FAILED);
    return at;
}

/* ---- advice that stays, and the flag of smaps that tells of it; some of it is a matter of the kernel's build ---- */

static const struct { const char *name; int advice; const char *flag; bool may_lack; } ADVICE[] = {
    {"MADV_WIPEONFORK", MADV_WIPEONFORK, "wf", false}, {"MADV_MERGEABLE", MADV_MERGEABLE, "mg", true},
    {"MADV_NOHUGEPAGE", MADV_NOHUGEPAGE, "nh", true}, {"MADV_RANDOM", MADV_RANDOM, "rr", false},
    {"MADV_SEQUENTIAL", MADV_SEQUENTIAL, "sr", false},
};
static bool given[COUNT(ADVICE)];

/* What a child born now finds of advice on forks. */
static void check_fork(const char *wiped, const char *not_forked) {
    pid_t child = fork();
    if (!child) {
        unsigned char resident;
        bool zero = !wiped || (!wiped[0] && !memcmp(wiped, wiped + 1, PAGE - 1));
        _exit(zero && mincore((void *)(uintptr_t)not_forked, PAGE, &resident) && errno == ENOMEM ? 19 : 1);
    }
    check_exit(child, 19, "a child that must not see what is not for it");
}

/* ---- the map, in a form that does not mind how neighbours are merged ---- */

struct area { unsigned long from, to; char perms[5]; unsigned long offset; char name[200]; };
static struct area areas[2][512];
static int area_count[2];

static void read_map(int which) {
    static char text[256 << 10];
    MUST(slurp("/proc/self/maps", text, sizeof text) > 0);
    int n = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        struct area a = {0};
        unsigned major, minor;
        unsigned long inode;
        if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu %199[^\n]", &a.from, &a.to, a.perms, &a.offset, &major, &minor,
                   &inode, a.name) < 7) continue;
        struct area *last = n ? &areas[which][n - 1] : NULL;
        if (last && last->to == a.from && !strcmp(last->perms, a.perms) && !strcmp(last->name, a.name) &&
            (!inode || last->offset + (last->to - last->from) == a.offset))
            last->to = a.to;
        else if (n < (int)COUNT(areas[0])) areas[which][n++] = a;
    }
    area_count[which] = n;
}

static const char *plain(const char *name) {
    return *extra && !strcmp(*extra, "criu") && !strcmp(name, "/memfd:/dev/zero (deleted)") ? name + 7 : name;
}

static void check_map(void) {
    read_map(1);
    CHECK_EQUAL(area_count[1], area_count[0], "the number of mapped areas");
    for (int i = 0; i < area_count[0] && i < area_count[1]; i++) {
        struct area *a = &areas[0][i], *b = &areas[1][i];
        if (a->from == b->from && a->to == b->to && !strcmp(a->perms, b->perms) && !strcmp(plain(a->name), plain(b->name)))
            continue;
        complain("area %lx-%lx %s %s is now %lx-%lx %s %s", a->from, a->to, a->perms, a->name, b->from, b->to, b->perms, b->name);
        return;
    }
}

int main(int argc, char **argv) {
    begin(argc, argv);
    bool old_criu = extra_count > 1 && !strcmp(extra[1], "old");
    char on_stack[256 << 10];
    region("stack", on_stack, sizeof on_stack, RW);
    region("bss", in_bss, sizeof in_bss, RW);
    region("data", in_data, sizeof in_data, RW);
    region("large heap block", malloc(3 * MIB), 3 * MIB - 16, RW);
    static char *small[200];
    for (int i = 0; i < 200; i++) fill(small[i] = malloc(100 + (size_t)i), 100 + (size_t)i, 9000 + (uint64_t)i);
    region("brk", sbrk(64 << 10), 64 << 10, RW);

    region("anonymous", map(8 * MIB, RW, MAP_PRIVATE), 8 * MIB, RW);
    char *sparse = map(1024 * MIB, RW, MAP_PRIVATE | MAP_NORESERVE);
    for (size_t i = 0; i < 1024; i += 64) fill(sparse + i * MIB, PAGE, i);
    char *none = region("no access", map(4 * PAGE, RW, MAP_PRIVATE), 4 * PAGE, PROT_NONE);
    char *read_only = region("read only", map(4 * PAGE, RW, MAP_PRIVATE), 4 * PAGE, PROT_READ);
    MUST(!mprotect(none, 4 * PAGE, PROT_NONE) && !mprotect(read_only, 4 * PAGE, PROT_READ));
    char *code = map(PAGE, RW, MAP_PRIVATE);
    memcpy(code, "\xb8\x78\x56\x34\x12\xc3", 6); /* mov eax, 0x12345678; ret */
    MUST(!mprotect(code, PAGE, PROT_READ | PROT_EXEC));
    char *huge = map(6 * MIB, RW, MAP_PRIVATE);
    bool could_be_huge = !madvise(huge, 6 * MIB, MADV_HUGEPAGE);
    region("huge pages", huge, 6 * MIB, RW);
    char *dropped = region("given back", map(16 * PAGE, RW, MAP_PRIVATE), 4 * PAGE, RW);
    MUST(!madvise(dropped + 4 * PAGE, 12 * PAGE, MADV_DONTNEED));
    char *not_forked = region("not for children", map(2 * PAGE, RW, MAP_PRIVATE), 2 * PAGE, RW);
    char *not_dumped = region("not dumped", map(2 * PAGE, RW, MAP_PRIVATE), 2 * PAGE, RW);
    MUST(!madvise(not_forked, 2 * PAGE, MADV_DONTFORK) && !madvise(not_dumped, 2 * PAGE, MADV_DONTDUMP));
    char *advised[COUNT(ADVICE)];
    for (size_t i = 0; i < COUNT(ADVICE); i++) {
        advised[i] = map(2 * PAGE, RW, MAP_PRIVATE);
        given[i] = !madvise(advised[i], 2 * PAGE, ADVICE[i].advice);
        MUST(given[i] || ADVICE[i].may_lack);
        region(ADVICE[i].name, advised[i], 2 * PAGE, RW);
    }
    mprotect(map(PAGE, RW, MAP_PRIVATE), PAGE, PROT_NONE); /* no neighbour of what comes next */
    char *locked = region("locked", map(2 * PAGE, RW, MAP_PRIVATE), 2 * PAGE, RW);
    MUST(!mlock(locked, 2 * PAGE));
    char *grows = map(8 * PAGE, RW, MAP_PRIVATE | MAP_GROWSDOWN);
    region("grows down", grows, 8 * PAGE, RW);
    /* Sixty mappings side by side that cannot be merged. */
    char *stripes = map(120 * PAGE, RW, MAP_PRIVATE);
    for (int i = 0; i < 120; i++) fill(stripes + (size_t)i * PAGE, PAGE, 7000 + (uint64_t)i);
    for (int i = 0; i < 120; i += 2) MUST(!mprotect(stripes + (size_t)i * PAGE, PAGE, PROT_READ));

    struct conversation *shared = (void *)map(sizeof *shared, RW, MAP_SHARED);
    fill(shared->pattern, sizeof shared->pattern, 55);

    char *file_path = path_in(shared_dir, "mapped");
    int file = open(file_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    static char contents[8 * PAGE];
    fill(contents, sizeof contents, 66);
    MUST(file >= 0 && write(file, contents, sizeof contents) == (ssize_t)sizeof contents);
    char *cow = mmap(NULL, sizeof contents, RW, MAP_PRIVATE, file, 0);
    char *writable = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, file, (off_t)(4 * PAGE));
    MUST(cow != MAP_FAILED && writable != MAP_FAILED);
    fill(cow + PAGE, 2 * PAGE, 67);

    int memfd = memfd_create("subject", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    MUST(memfd >= 0 && !ftruncate(memfd, 6 * PAGE));
    char *through = mmap(NULL, 6 * PAGE, RW, MAP_SHARED, memfd, 0);
    char *tail = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, memfd, (off_t)(4 * PAGE));
    char *private_memfd = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, memfd, 0);
    MUST(through != MAP_FAILED && tail != MAP_FAILED && private_memfd != MAP_FAILED);
    fill(through, PAGE, 70);
    fill(through + 4 * PAGE, 2 * PAGE, 71); /* pages 1 to 3 stay holes */
    fill(private_memfd + PAGE, PAGE, 72);
    MUST(lseek(memfd, 4711, SEEK_SET) == 4711 && !fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
    /* A second description of the same memfd. */
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", memfd);
    int memfd_again = open(link, O_RDONLY | O_CLOEXEC);
    MUST(memfd_again >= 0);

    pid_t child = start_answerer(shared);
    void *end_of_heap = sbrk(0);
    read_map(0);
    ready();
    wait_for_question();

    check_map();
    if (sabotage) in_bss[4097] ^= 1;
    MUST(!mprotect(none, 4 * PAGE, PROT_READ));
    for (int i = 0; i < region_count; i++) check_filled(regions[i].at, regions[i].size, regions[i].seed, regions[i].name);
    for (int i = 0; i < 200; i++) check_filled(small[i], 100 + (size_t)i, 9000 + (uint64_t)i, "a small heap block");
    for (int i = 0; i < 120; i++) check_filled(stripes + (size_t)i * PAGE, PAGE, 7000 + (uint64_t)i, "a stripe");
    for (size_t i = 0; i < 1024; i += 64) {
        check_filled(sparse + i * MIB, PAGE, i, "a sparse page");
        CHECK(!sparse[i * MIB + PAGE], "a page came from nowhere");
    }
    for (size_t i = 4 * PAGE; i < 16 * PAGE; i++)
        if (dropped[i]) { complain("what was given back came again at %zu", i); break; }
    CHECK(((int (*)(void))(uintptr_t)code)() == 0x12345678, "the code page returns nonsense");
    CHECK(!strcmp(words, "constant data"), "constant data");
    for (size_t i = 0; i < COUNT(ADVICE); i++)
        CHECK(!given[i] || (old_criu && i == 0) || has_flag(advised[i], ADVICE[i].flag), "%s is lost", ADVICE[i].name);
    CHECK(has_flag(huge, "hg") == could_be_huge, "MADV_HUGEPAGE is lost");
    CHECK(has_flag(not_forked, "dc"), "MADV_DONTFORK is lost");
    CHECK(has_flag(not_dumped, "dd"), "MADV_DONTDUMP is lost");
    CHECK(has_flag(locked, "lo"), "mlock is lost");
    CHECK(has_flag(grows, "gd"), "MAP_GROWSDOWN is lost");
    CHECK(has_flag(sparse, "nr"), "MAP_NORESERVE is lost");

    /* Copies on write stay private, the rest follows the file. */
    check_filled(cow + PAGE, 2 * PAGE, 67, "a private page of the file");
    CHECK(!memcmp(cow, contents, PAGE), "an untouched page of the file");
    CHECK(!memcmp(cow + 3 * PAGE, contents + 3 * PAGE, 5 * PAGE), "untouched pages of the file");
    fill(writable, PAGE, 68);
    static char back[PAGE];
    CHECK(pread(file, back, PAGE, (off_t)(4 * PAGE)) == (ssize_t)PAGE, "pread: %s", strerror(errno));
    check_filled(back, PAGE, 68, "what was written through the shared mapping");
    check_filled(cow + 4 * PAGE, PAGE, 68, "the same through the private one");
    CHECK(pread(file, back, PAGE, (off_t)PAGE) == (ssize_t)PAGE && !memcmp(back, contents + PAGE, PAGE), "a private page reached the file");

    check_filled(through, PAGE, 70, "the memfd");
    check_filled(tail, 2 * PAGE, 71, "the end of the memfd, mapped twice");
    check_filled(private_memfd + PAGE, PAGE, 72, "a private page of the memfd");
    CHECK(!through[PAGE] && !through[4 * PAGE - 1], "the hole in the memfd");
    CHECK_EQUAL(lseek(memfd, 0, SEEK_CUR), 4711, "the offset of the memfd");
    CHECK_EQUAL(fcntl(memfd, F_GET_SEALS), F_SEAL_SHRINK, "the seals of the memfd");
    struct stat status;
    CHECK(!fstat(memfd, &status) && status.st_size == (off_t)(6 * PAGE), "the size of the memfd is %ld", (long)status.st_size);
    CHECK(pwrite(memfd, "fresh", 5, (off_t)(4 * PAGE)) == 5 && !memcmp(tail, "fresh", 5), "the memfd and its mapping have parted");
    CHECK(pread(memfd_again, back, 5, (off_t)(4 * PAGE)) == 5 && !memcmp(back, "fresh", 5), "the two descriptions of the memfd have parted");
    CHECK_EQUAL(fcntl(memfd_again, F_GETFL) & O_ACCMODE, O_RDONLY, "the mode of the second description");

    /* The child still shares, and is still a child. */
    check_answerer(shared, child);

    check_fork(old_criu ? NULL : advised[0], not_forked);

    /* And the heap goes on where it ended. */
    CHECK(sbrk(0) == end_of_heap, "the heap ends at %p, was %p", sbrk(0), end_of_heap);
    CHECK(sbrk((intptr_t)MIB) == end_of_heap, "brk: %s", strerror(errno));
    if (sbrk(0) == (char *)end_of_heap + MIB) memset(end_of_heap, 1, MIB);
    char *more = malloc(5 * MIB);
    CHECK(more && memset(more, 2, 5 * MIB), "malloc");
    verdict();
}
