/* Odd descriptors: places (O_PATH), files of /proc and /sys, a sealed memfd, a file without a name
 * that is mostly hole, one larger than 2 GiB, and owners of signals. */
#include "subject.h"

#define FAR ((off_t)3 << 30)

static volatile sig_atomic_t told, told_band;
static void on_signal(int signal, siginfo_t *info, void *context) {
    (void)context;
    told = signal, told_band = info->si_fd;
}

static bool same_file(int fd, const char *path) {
    struct stat a, b;
    return !fstat(fd, &a) && !lstat(path, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    char *file_path = path_in(shared_dir, "file"), *link_path = path_in(shared_dir, "link"), *big_path = path_in(shared_dir, "big"), *fifo_path = path_in(shared_dir, "fifo");
    int file = open(file_path, O_RDWR | O_CREAT, 0600);
    MUST(file >= 0 && write(file, "content", 7) == 7 && !symlink("nowhere", link_path));
    int folder = open(shared_dir, O_PATH | O_DIRECTORY), place = open(file_path, O_PATH | O_CLOEXEC);
    int link = open(link_path, O_PATH | O_NOFOLLOW), null = open("/dev/null", O_PATH);
    MUST(folder >= 0 && place >= 0 && link >= 0 && null >= 0 && !mkfifo(fifo_path, 0600));
    int fifo = open(fifo_path, O_PATH);
    MUST(fifo >= 0);

    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", getpid());
    int status = open(path, O_RDONLY), self = open("/proc/self", O_RDONLY | O_DIRECTORY), meminfo = open("/proc/meminfo", O_RDONLY);
    int sys = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY), sys_dir = open("/sys/class", O_RDONLY | O_DIRECTORY);
    MUST(status >= 0 && self >= 0 && meminfo >= 0 && sys >= 0 && sys_dir >= 0);
    MUST(read(meminfo, text, 100) == 100);

    int sealed = memfd_create("sealed", MFD_ALLOW_SEALING), plain = memfd_create("plain", 0);
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    MUST(sealed >= 0 && plain >= 0 && write(sealed, "sealed", 6) == 6 && !fcntl(sealed, F_ADD_SEALS, seals));
    char *view = mmap(NULL, 4096, PROT_READ, MAP_SHARED, sealed, 0);
    MUST(view != MAP_FAILED && write(plain, "plain", 5) == 5);

    int hole = open(shared_dir, O_TMPFILE | O_RDWR, 0600), big = open(big_path, O_RDWR | O_CREAT, 0600);
    MUST(hole >= 0 && pwrite(hole, "far", 3, FAR) == 3 && !ftruncate(hole, FAR + (1 << 20)));
    MUST(big >= 0 && pwrite(big, "far", 3, FAR) == 3 && lseek(big, FAR, SEEK_SET) == FAR);

    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    MUST(!sigaction(SIGRTMIN + 3, &action, NULL));
    int async[2];
    struct f_owner_ex owner = {.type = F_OWNER_TID, .pid = (int)gettid()};
    MUST(!pipe(async) && !fcntl(async[0], F_SETOWN_EX, &owner) && !fcntl(async[0], F_SETSIG, SIGRTMIN + 3));
    MUST(!fcntl(async[0], F_SETFL, O_ASYNC | O_NONBLOCK));
    ready();
    wait_for_question();

    if (sabotage) unlink(file_path), close(open(file_path, O_CREAT | O_WRONLY, 0600));
    CHECK(same_file(folder, shared_dir), "the place of the folder is another");
    CHECK(same_file(place, file_path), "the place of the file is another");
    CHECK(same_file(link, link_path), "the place of the link is another");
    CHECK(same_file(null, "/dev/null"), "the place of the device is another");
    CHECK(same_file(fifo, fifo_path), "the place of the fifo is another");
    for (size_t i = 0; i < 5; i++) {
        int fds[] = {folder, place, link, null, fifo};
        CHECK(fcntl(fds[i], F_GETFL) & O_PATH && read(fds[i], text, 1) < 0 && errno == EBADF, "place %zu can be read", i);
    }
    CHECK_EQUAL(fcntl(place, F_GETFD), FD_CLOEXEC, "close-on-exec of the place");
    snprintf(path, sizeof path, "/proc/self/fd/%d", place);
    int again = open(path, O_RDONLY);
    CHECK(again >= 0 && read(again, text, 7) == 7 && !memcmp(text, "content", 7), "the place of the file cannot be opened");
    CHECK(faccessat(folder, strrchr(file_path, '/') + 1, R_OK, 0) == 0, "the file is not found from its folder");

    snprintf(path, sizeof path, "Pid:\t%d\n", getpid());
    ssize_t got = pread(status, text, sizeof text - 1, 0);
    CHECK(got > 0 && (text[got] = 0, strstr(text, path)), "my status is not mine");
    int mine = openat(self, "stat", O_RDONLY);
    got = mine < 0 ? -1 : read(mine, text, sizeof text - 1);
    CHECK(got > 0 && atoi(text) == getpid(), "/proc/self is not mine");
    CHECK_EQUAL(lseek(meminfo, 0, SEEK_CUR), 100, "the offset in meminfo");
    CHECK(read(meminfo, text, 10) == 10, "meminfo cannot be read on");
    CHECK(read(sys, text, 10) > 0 && same_file(sys_dir, "/sys/class"), "/sys is lost");

    CHECK_EQUAL(fcntl(sealed, F_GET_SEALS), seals, "the seals");
    CHECK(!memcmp(view, "sealed", 6) && pread(sealed, text, 9, 0) == 6 && !memcmp(text, "sealed", 6), "the sealed memfd differs");
    CHECK(write(sealed, "x", 1) < 0 && errno == EPERM, "the sealed memfd can be written");
    CHECK_EQUAL(fcntl(plain, F_GET_SEALS), F_SEAL_SEAL, "the seals of the plain memfd");
    CHECK(pread(plain, text, 9, 0) == 5 && !memcmp(text, "plain", 5), "the plain memfd differs");

    struct stat stat;
    CHECK(!fstat(hole, &stat) && stat.st_size == FAR + (1 << 20) && stat.st_nlink == 0, "the file without a name has %lld bytes", (long long)stat.st_size);
    CHECK(stat.st_blocks < 1000, "the hole takes %lld blocks", (long long)stat.st_blocks);
    CHECK(pread(hole, text, 4, FAR) == 4 && !memcmp(text, "far", 4) && pread(hole, text, 1, FAR / 2) == 1 && !*text, "the file without a name differs");
    CHECK_EQUAL(lseek(big, 0, SEEK_CUR), FAR, "the offset in the big file");
    CHECK(read(big, text, 9) == 3 && !memcmp(text, "far", 3), "the big file differs");

    struct f_owner_ex now_owner = {0};
    CHECK(!fcntl(async[0], F_GETOWN_EX, &now_owner) && now_owner.type == F_OWNER_TID && now_owner.pid == (int)gettid(),
          "the owner is %d of type %d", now_owner.pid, now_owner.type);
    CHECK_EQUAL(fcntl(async[0], F_GETSIG), SIGRTMIN + 3, "the signal of the pipe");
    CHECK_EQUAL(fcntl(async[0], F_GETFL) & O_ASYNC, O_ASYNC, "O_ASYNC");
    CHECK(write(async[1], "x", 1) == 1 && EVENTUALLY(told != 0), "no signal came");
    CHECK(told == SIGRTMIN + 3 && told_band == async[0], "signal %d from fd %d", (int)told, (int)told_band);
    verdict();
}
