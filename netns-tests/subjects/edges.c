/* Files at their edges: mapped beyond their ends, larger than 4 GiB, nearly all of one a hole, without a name. */
#include <setjmp.h>

#include "subject.h"

#define PAGES 3
#define FAR (5ll << 30)

static sigjmp_buf back;
static void caught(int signal) { siglongjmp(back, signal); }

/* The signal that reading a byte gives. */
static int signal_at(const volatile char *at) {
    int signal = sigsetjmp(back, 1);
    if (!signal) (void)*at;
    return signal;
}

static void check_bytes(int fd, off_t at, const char *wanted, const char *what) {
    char bytes[16] = {0};
    ssize_t size = (ssize_t)strlen(wanted);
    CHECK(pread(fd, bytes, (size_t)size, at) == size && !memcmp(bytes, wanted, (size_t)size), "%s at %lld is [%s]", what, (long long)at, bytes);
}

static void check_size(int fd, off_t size, const char *what) {
    struct stat stat = {0};
    CHECK(!fstat(fd, &stat) && stat.st_size == size, "%s has %lld bytes", what, (long long)stat.st_size);
    CHECK(stat.st_blocks < 2048, "%s takes %lld blocks", what, (long long)stat.st_blocks);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    signal(SIGBUS, caught);
    int file = open(path_in(shared_dir, "short"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    MUST(file >= 0 && !ftruncate(file, PAGE + 100) && pwrite(file, "tail", 4, PAGE) == 4);
    char *shared = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    char *own = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    MUST(shared != MAP_FAILED && own != MAP_FAILED);
    own[7] = 'o', own[PAGE + 50] = 'p';
    MUST(signal_at(own + 2 * PAGE) == SIGBUS && signal_at(shared + 2 * PAGE) == SIGBUS);

    int far = open(path_in(shared_dir, "far"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int gone = open(path_in(shared_dir, "gone"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    for (int i = 0; i < 2; i++) {
        int fd = i ? gone : far;
        MUST(fd >= 0 && pwrite(fd, "end", 3, FAR) == 3 && pwrite(fd, "middle", 6, FAR / 2) == 6 && pwrite(fd, "begin", 5, 0) == 5);
        MUST(lseek(fd, FAR - 1, SEEK_SET) == FAR - 1);
    }
    MUST(!unlink(path_in(shared_dir, "gone")));
    ready();
    wait_for_question();

    if (sabotage) own[7] = 'x';
    CHECK(own[7] == 'o' && own[PAGE + 50] == 'p', "what the private mapping has of its own");
    CHECK(!memcmp(shared + PAGE, "tail", 4) && !memcmp(own + PAGE, "tail", 4), "the last page of the file");
    CHECK_EQUAL(signal_at(shared + 2 * PAGE), SIGBUS, "the signal beyond the end, shared");
    CHECK_EQUAL(signal_at(own + 2 * PAGE), SIGBUS, "the signal beyond the end, private");
    CHECK(!ftruncate(file, PAGES * PAGE), "the file cannot grow: %s", strerror(errno));
    CHECK_EQUAL(signal_at(shared + 2 * PAGE), 0, "the signal where the file is now");
    shared[2 * PAGE] = 's';
    check_bytes(file, 2 * PAGE, "s", "what was written through the mapping");

    for (int i = 0; i < 2; i++) {
        int fd = i ? gone : far;
        const char *what = i ? "the file without a name" : "the large file";
        check_size(fd, FAR + 3, what);
        check_bytes(fd, 0, "begin", what), check_bytes(fd, FAR / 2, "middle", what), check_bytes(fd, FAR, "end", what);
        CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), FAR - 1, "the place in the file");
    }
    struct stat stat = {0};
    CHECK(!fstat(gone, &stat) && stat.st_nlink == 0, "the file without a name has one");
    verdict();
}
