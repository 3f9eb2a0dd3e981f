/* Open files of the usual kinds: offsets, flags, deleted ones, folders, devices, place and mask. */
#include <dirent.h>

#include "subject.h"

#define SIZE 10000

static int make_file(const char *name, int flags, uint64_t seed, char **path) {
    static char bytes[SIZE];
    *path = path_in(shared_dir, name);
    int fd = open(*path, O_WRONLY | O_CREAT | O_TRUNC, 0640);
    fill(bytes, SIZE, seed);
    MUST(fd >= 0 && write(fd, bytes, SIZE) == SIZE);
    close(fd);
    fd = open(*path, flags);
    MUST(fd >= 0);
    return fd;
}

static void check_content(int fd, uint64_t seed, const char *what) {
    static char bytes[SIZE];
    ssize_t got = pread(fd, bytes, SIZE, 0);
    CHECK(got == SIZE, "%s: %zd bytes (%s)", what, got, got < 0 ? strerror(errno) : "end");
    if (got == SIZE) check_filled(bytes, SIZE, seed, what);
}

static void check_path(int fd, const char *wanted) {
    char link[64], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    CHECK(readlink(link, path, sizeof path - 1) > 0 && !strcmp(path, wanted), "fd %d is %s, was %s", fd, path, wanted);
}

static int again(int fd, int flags) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return open(link, flags);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    char *plain_path, *append_path, *read_path, *gone_path;
    int plain = make_file("plain", O_RDWR, 1, &plain_path);
    int append = make_file("append", O_WRONLY | O_APPEND | O_NONBLOCK, 2, &append_path);
    int reader = make_file("reader", O_RDONLY | O_CLOEXEC | O_NOATIME, 3, &read_path);
    int gone = make_file("gone", O_RDWR, 4, &gone_path);
    int gone_reader = open(gone_path, O_RDONLY);
    int nameless = open(shared_dir, O_TMPFILE | O_RDWR, 0600);
    MUST(gone_reader >= 0 && !unlink(gone_path));
    if (nameless >= 0) MUST(write(nameless, "nameless", 8) == 8);
    int plain_again = open(plain_path, O_RDONLY);
    int twin = dup(plain), high = fcntl(plain, F_DUPFD_CLOEXEC, 200);
    MUST(twin >= 0 && high >= 200);
    MUST(lseek(plain, 1234, SEEK_SET) == 1234 && lseek(plain_again, 99, SEEK_SET) == 99);
    MUST(lseek(gone, 4321, SEEK_SET) == 4321 && lseek(reader, SIZE + 5, SEEK_SET) == SIZE + 5);

    char *folder_path = path_in(shared_dir, "folder"), *inner = NULL;
    MUST(!mkdir(folder_path, 0750) && asprintf(&inner, "%s/inner", folder_path) > 0);
    close(open(inner, O_CREAT | O_WRONLY, 0600));
    int folder = open(folder_path, O_RDONLY | O_DIRECTORY);
    int path_only = option_number("o-path", 0) ? open(plain_path, O_PATH) : -1;
    int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDONLY), random = open("/dev/urandom", O_RDONLY);
    MUST(folder >= 0 && null >= 0 && zero >= 0 && random >= 0);
    MUST(!chdir(folder_path));
    umask(0137);
    DIR *before = opendir("/proc/self/fd");
    int open_before = 0;
    while (readdir(before)) open_before++;
    closedir(before);
    ready();
    wait_for_question();

    if (sabotage) lseek(plain, 1, SEEK_CUR);
    DIR *after = opendir("/proc/self/fd");
    int open_after = 0;
    while (after && readdir(after)) open_after++;
    if (after) closedir(after);
    CHECK_EQUAL(open_after, open_before, "the number of open descriptors");

    CHECK_EQUAL(lseek(plain, 0, SEEK_CUR), 1234, "the offset of the plain file");
    CHECK_EQUAL(lseek(twin, 1, SEEK_CUR), 1235, "the offset of the twin");
    CHECK_EQUAL(lseek(high, 0, SEEK_CUR), 1235, "the offset of the high descriptor");
    CHECK_EQUAL(lseek(plain_again, 0, SEEK_CUR), 99, "the offset of the second description");
    CHECK_EQUAL(fcntl(high, F_GETFD), FD_CLOEXEC, "close-on-exec of the high descriptor");
    CHECK_EQUAL(fcntl(twin, F_GETFD), 0, "close-on-exec of the twin");
    CHECK_EQUAL(fcntl(plain, F_GETFL) & O_ACCMODE, O_RDWR, "the mode of the plain file");
    check_content(plain, 1, "the plain file");
    check_path(plain, plain_path);
    check_path(append, append_path);

    CHECK_EQUAL(fcntl(append, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK), O_WRONLY | O_APPEND | O_NONBLOCK, "the flags of the appended file");
    struct stat status;
    CHECK(lseek(append, 0, SEEK_SET) == 0 && write(append, "more", 4) == 4 && !fstat(append, &status) && status.st_size == SIZE + 4,
          "appending did not append");
    CHECK_EQUAL(fcntl(reader, F_GETFL) & (O_ACCMODE | O_NOATIME), O_RDONLY | O_NOATIME, "the flags of the reader");
    CHECK_EQUAL(fcntl(reader, F_GETFD), FD_CLOEXEC, "close-on-exec of the reader");
    CHECK_EQUAL(lseek(reader, 0, SEEK_CUR), SIZE + 5, "the offset beyond the end");
    CHECK(write(reader, "x", 1) < 0 && errno == EBADF, "the reader can write");

    CHECK(!fstat(gone, &status) && status.st_nlink == 0, "the deleted file has %d names", (int)status.st_nlink);
    CHECK_EQUAL(lseek(gone, 0, SEEK_CUR), 4321, "the offset of the deleted file");
    check_content(gone, 4, "the deleted file");
    check_content(gone_reader, 4, "the deleted file by another description");
    CHECK(access(gone_path, F_OK) < 0, "the deleted file has its name back");
    char bytes[64] = "";
    CHECK(pwrite(gone, "fresh", 5, 100) == 5 && pread(gone_reader, bytes, 5, 100) == 5 && !memcmp(bytes, "fresh", 5),
          "the two descriptions of the deleted file have parted");
    CHECK_EQUAL(fcntl(gone_reader, F_GETFL) & O_ACCMODE, O_RDONLY, "the mode of the deleted file's reader");
    if (nameless >= 0) {
        memset(bytes, 0, sizeof bytes);
        CHECK(pread(nameless, bytes, 64, 0) == 8 && !memcmp(bytes, "nameless", 8), "the nameless file holds %s", bytes);
        CHECK_EQUAL(lseek(nameless, 0, SEEK_CUR), 8, "the offset of the nameless file");
    }

    int inner_fd = openat(folder, "inner", O_RDONLY);
    CHECK(inner_fd >= 0, "openat in the folder: %s", strerror(errno));
    int found = 0;
    DIR *listing = fdopendir(dup(folder));
    for (struct dirent *e; listing && (e = readdir(listing));) found += !strcmp(e->d_name, "inner");
    CHECK_EQUAL(found, 1, "the listing of the folder");
    if (path_only >= 0) {
        CHECK_EQUAL(fcntl(path_only, F_GETFL) & O_PATH, O_PATH, "O_PATH");
        check_content(again(path_only, O_RDONLY), 1, "the plain file through O_PATH");
    }
    char where[PATH_MAX] = "";
    CHECK(getcwd(where, sizeof where) && !strcmp(where, folder_path), "the working directory is %s", where);
    CHECK_EQUAL(umask(0), 0137, "umask");

    memset(bytes, 1, sizeof bytes);
    CHECK(read(null, bytes, 1) == 0 && write(null, bytes, 64) == 64, "/dev/null");
    CHECK(read(zero, bytes, 64) == 64 && !bytes[0] && !bytes[63], "/dev/zero");
    CHECK(read(random, bytes, 64) == 64 && memcmp(bytes, bytes + 32, 32), "/dev/urandom");
    verdict();
}
