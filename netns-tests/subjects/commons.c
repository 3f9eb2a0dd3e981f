/* Shared memory that two processes keep writing to: `mib N` (4) without a name, which both have mapped,
 * and as much in a memfd, which one has mapped and the other writes by descriptor and punches holes
 * into; and a memfd that grows. Even pages are the parent's, odd ones the child's; each remembers in
 * private what it wrote. `rate N` (4) pages are written in each object and each millisecond. With
 * `segment 1` a segment of System V takes the place of the nameless one; with `file 1` a file of /dev/shm
 * takes that of the memfd, and with `file 2` one that has been deleted. */
#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#include "subject.h"

enum { HOLE = UINT32_MAX, JOURNAL_MIB = 1, OLD = 1000000000 };

static char *nameless, *mapped;
static int memfd = -1, journal = -1, quiet = -1;
static char path[64];
static size_t pages, journal_pages;
static long rate;
static uint32_t *rounds[2];
static volatile bool stop;

static size_t my_page(uint64_t dice, int who) { return (scramble(dice * 2 + (uint64_t)who) % (pages / 2)) * 2 + (size_t)who; }

static void write_mapped(int who, uint64_t dice) {
    size_t i = my_page(dice, who), at = i * PAGE;
    fill_page(nameless + at, i, ++rounds[0][i], 50);
    i = my_page(dice + 1, who), at = i * PAGE;
    if (who == 0) {
        fill_page(mapped + at, i, ++rounds[1][i], 50);
        return;
    }
    char page[PAGE];
    uint32_t *round = &rounds[1][i];
    if (dice % 16 == 0 && !fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, PAGE)) {
        *round = HOLE;
        return;
    }
    *round = *round == HOLE ? 1 : *round + 1;
    fill_page(page, i, *round, 50);
    if (pwrite(memfd, page, PAGE, (off_t)at) != PAGE) complain("cannot write page %zu", i);
}

static void append(void) {
    char page[PAGE];
    fill_page(page, journal_pages, 7, 50);
    if (pwrite(journal, page, PAGE, (off_t)(journal_pages * PAGE)) != PAGE) complain("cannot append");
    journal_pages++;
}

static void check(int who) {
    static const char zeros[PAGE];
    char page[PAGE];
    for (size_t i = (size_t)who; i < pages; i += 2) {
        CHECK(is_page(nameless + i * PAGE, i, rounds[0][i], 50), "%d: nameless page %zu (round %u) differs", who, i, rounds[0][i]);
        bool read_it = pread(memfd, page, PAGE, (off_t)(i * PAGE)) == PAGE;
        bool right = rounds[1][i] == HOLE ? !memcmp(page, zeros, PAGE) : is_page(page, i, rounds[1][i], 50);
        CHECK(read_it && right, "%d: page %zu of the memfd (round %u) differs", who, i, rounds[1][i]);
    }
}

/* One that nobody writes to keeps its times. */
static void make_quiet(void) {
    char page[PAGE];
    const struct timespec times[2] = {{.tv_sec = OLD}, {.tv_sec = OLD}};
    MUST((quiet = open("/dev/shm", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600)) >= 0);
    MUST(!ftruncate(quiet, JOURNAL_MIB << 20));
    for (size_t i = 0; i < 5; i++) {
        fill_page(page, i, 9, 50);
        MUST(pwrite(quiet, page, PAGE, (off_t)(i * i * PAGE)) == PAGE);
    }
    MUST(!futimens(quiet, times));
}

static void check_quiet(void) {
    char page[PAGE];
    struct stat stat = {0};
    CHECK(!fstat(quiet, &stat) && stat.st_mtime == OLD && stat.st_atime == OLD, "the quiet file is of %ld", (long)stat.st_mtime);
    CHECK_EQUAL(stat.st_blocks * 512, 5 * PAGE, "what the quiet file takes");
    for (size_t i = 0; i < 5; i++)
        CHECK(pread(quiet, page, PAGE, (off_t)(i * i * PAGE)) == PAGE && is_page(page, i, 9, 50), "page %zu of the quiet file differs", i * i);
}

/* Who opens it by its name gets the same, with its mode; and no hole of it takes room. */
static void check_file(void) {
    struct stat stat = {0}, named = {0};
    CHECK(!fstat(memfd, &stat) && (stat.st_mode & 07777) == 0640, "the file has mode %o", stat.st_mode);
    CHECK_EQUAL(stat.st_size, pages * PAGE, "the size of the file");
    CHECK((size_t)stat.st_blocks * 512 <= pages * PAGE, "the file has %ld blocks", (long)stat.st_blocks);
    check_quiet();
    if (!*path) {
        CHECK(!stat.st_nlink, "the deleted file has a name");
        return;
    }
    CHECK(!lstat(path, &named) && named.st_ino == stat.st_ino && named.st_dev == stat.st_dev, "its name is another's");
    char own[64], shown[128] = "";
    snprintf(own, sizeof own, "/proc/self/fd/%d", memfd);
    CHECK(readlink(own, shown, sizeof shown - 1) > 0 && !strcmp(shown, path), "it shows as %s", shown);
    CHECK(!unlink(path), "it cannot be removed: %s", strerror(errno));
}

static void check_journal(void) {
    char page[PAGE];
    struct stat stat = {0};
    CHECK(!fstat(journal, &stat) && (size_t)stat.st_size == journal_pages * PAGE, "the journal has another size");
    for (size_t i = 0; i < journal_pages; i++)
        CHECK(pread(journal, page, PAGE, (off_t)(i * PAGE)) == PAGE && is_page(page, i, 7, 50), "page %zu of the journal differs", i);
}

/* Its half, until it is asked; then its verdict is its exit. */
__attribute__((noreturn)) static void other(void) {
    sigset_t question;
    sigemptyset(&question);
    sigaddset(&question, SIGUSR1);
    const struct timespec beat_time = timespec_of(MS);
    for (uint64_t dice = 1; sigtimedwait(&question, NULL, &beat_time) != SIGUSR1;) {
        for (long n = 0; n < rate; n++) write_mapped(1, dice++);
        if (dice % 32 < (uint64_t)rate) append();
    }
    check(1);
    check_journal();
    if (complaint_count) say(complaints);
    _exit(complaint_count ? 9 : 0);
}

static void *writer(void *argument) {
    for (uint64_t dice = 1; !stop; sleep_ns(MS))
        for (long n = 0; n < rate; n++) write_mapped(0, dice++);
    return argument;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    pages = (size_t)option_number("mib", 4) << 8, rate = option_number("rate", 4);
    int segment = -1;
    if (option_number("segment", 0)) {
        MUST((segment = shmget(0x72000000 | (getpid() & 0xffff), pages * PAGE, IPC_CREAT | IPC_EXCL | 0600)) >= 0);
        nameless = shmat(segment, NULL, 0);
    } else {
        nameless = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    }
    MUST(nameless != MAP_FAILED);
    long file = option_number("file", 0);
    if (file) snprintf(path, sizeof path, "/dev/shm/qmig-commons-%d", getpid());
    memfd = file ? open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640) : memfd_create("commons", MFD_CLOEXEC);
    MUST(memfd >= 0);
    if (file) make_quiet();
    if (file > 1) MUST(!unlink(path) && !(*path = 0));
    MUST(!ftruncate(memfd, (off_t)(pages * PAGE)) && (journal = memfd_create("journal", MFD_CLOEXEC)) >= 0);
    mapped = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    MUST(mapped != MAP_FAILED);
    for (int which = 0; which < 2; which++) MUST((rounds[which] = calloc(pages, sizeof **rounds)));
    for (size_t i = 0; i < pages; i++) {
        fill_page(nameless + i * PAGE, i, 0, 50);
        fill_page(mapped + i * PAGE, i, 0, 50);
    }
    while (journal_pages < JOURNAL_MIB << 8) append();
    pid_t child = fork();
    MUST(child >= 0);
    if (!child) other();
    pthread_t thread;
    MUST(!pthread_create(&thread, NULL, writer, NULL));
    ready();
    wait_for_question();
    stop = true;
    pthread_join(thread, NULL);
    kill(child, SIGUSR1);
    check_exit(child, 0, "the other writer");
    if (sabotage) nameless[77] ^= 1;
    check(0);
    if (file) check_file();
    if (segment >= 0) CHECK(!shmctl(segment, IPC_RMID, NULL), "the segment cannot be removed: %s", strerror(errno));
    verdict();
}
