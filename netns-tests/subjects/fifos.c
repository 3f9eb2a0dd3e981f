/* Pipes with names: content, capacity, flags, both ends at once, an end that nobody else has. */
#include "subject.h"

static char *make(const char *name) {
    char *path = path_in(shared_dir, name);
    MUST(!mkfifo(path, 0640));
    return path;
}

static void put(int fd, size_t size, uint64_t seed) {
    char bytes[20000];
    fill(bytes, size, seed);
    MUST(write(fd, bytes, size) == (ssize_t)size);
}

static void take(int fd, size_t size, uint64_t seed, const char *what) {
    char bytes[20000];
    ssize_t got = read(fd, bytes, size);
    CHECK(got == (ssize_t)size, "%s gives %zd bytes of %zu (%s)", what, got, size, got < 0 ? strerror(errno) : "end");
    if (got == (ssize_t)size) check_filled(bytes, size, seed, what);
}

static bool would_block(int fd) {
    char byte;
    return read(fd, &byte, 1) < 0 && errno == EAGAIN;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    char *plain_path = make("plain"), *both_path = make("both"), *lone_path = make("lone");
    int reader = open(plain_path, O_RDONLY | O_NONBLOCK), writer = open(plain_path, O_WRONLY | O_CLOEXEC);
    int second = open(plain_path, O_RDONLY | O_NONBLOCK);
    int both = open(both_path, O_RDWR), lone = open(lone_path, O_RDONLY | O_NONBLOCK);
    MUST(reader >= 0 && writer >= 0 && second >= 0 && both >= 0 && lone >= 0);
    MUST(!fcntl(reader, F_SETFL, 0));
    int grown = fcntl(both, F_SETPIPE_SZ, 128 << 10);
    MUST(grown >= 128 << 10);
    put(writer, 5001, 1);
    put(both, 20000, 2);
    char first;
    MUST(read(both, &first, 1) == 1); /* the rest begins in the middle of a page */
    ready();
    wait_for_question();

    if (sabotage) put(writer, 1, 9);
    struct stat open_one, named;
    CHECK(!fstat(reader, &open_one) && !stat(plain_path, &named) && open_one.st_ino == named.st_ino && S_ISFIFO(open_one.st_mode),
          "the plain fifo is not the one with its name");
    take(second, 1000, 1, "the second description");
    char rest[8000];
    CHECK_EQUAL(read(reader, rest, sizeof rest), 4001, "the rest of the plain fifo");
    CHECK(would_block(second), "the plain fifo holds more than was written");
    CHECK_EQUAL(fcntl(reader, F_GETFL) & O_NONBLOCK, 0, "non-blocking at the reader");
    CHECK_EQUAL(fcntl(second, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "non-blocking at the second reader");
    CHECK_EQUAL(fcntl(writer, F_GETFD), FD_CLOEXEC, "close-on-exec of the writer");
    CHECK_EQUAL(fcntl(both, F_GETFL) & O_ACCMODE, O_RDWR, "the mode of the fifo with both ends");
    CHECK_EQUAL(fcntl(both, F_GETPIPE_SZ), grown, "the size of the big fifo");
    char bytes[20000];
    fill(bytes, sizeof bytes, 2);
    char got[20000];
    CHECK(read(both, got, sizeof got) == 19999 && !memcmp(got, bytes + 1, 19999), "the big fifo differs");
    char byte;
    CHECK_EQUAL(read(lone, &byte, 1), 0, "end of the fifo without writer");
    int other = open(lone_path, O_WRONLY | O_NONBLOCK);
    CHECK(other >= 0 && would_block(lone), "nobody can write to the lone fifo: %s", strerror(errno));
    put(other, 10, 6);
    take(lone, 10, 6, "the lone fifo");
    close(second);
    close(reader);
    CHECK(write(writer, "x", 1) < 0 && errno == EPIPE, "writing without reader gives %s", strerror(errno));
    verdict();
}
