/* Pipes: content, non-blocking ends, resized, half closed, several descriptors on one end. */
#include "subject.h"

static void put(int fd, size_t size, uint64_t seed) {
    char *bytes = malloc(size);
    fill(bytes, size, seed);
    MUST(write(fd, bytes, size) == (ssize_t)size);
    free(bytes);
}

static void take(int fd, size_t size, uint64_t seed, const char *what) {
    char *bytes = calloc(1, size + 1);
    size_t got = 0;
    ssize_t n = 0;
    while (got < size && (n = read(fd, bytes + got, size - got)) > 0) got += (size_t)n;
    CHECK(got == size, "%s holds %zu bytes of %zu (%s)", what, got, size, n < 0 ? strerror(errno) : "end");
    if (got == size) check_filled(bytes, size, seed, what);
    free(bytes);
}

static bool would_block(int fd) {
    char byte;
    return read(fd, &byte, 1) < 0 && errno == EAGAIN;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    int plain[2], empty[2], big[2], no_writer[2], no_reader[2], full[2], mixed[2];
    MUST(!pipe(plain) && !pipe2(empty, O_NONBLOCK | O_CLOEXEC) && !pipe(big));
    MUST(!pipe(no_writer) && !pipe(no_reader) && !pipe2(full, O_NONBLOCK) && !pipe(mixed));
    put(plain[1], 5001, 1);
    int grown = fcntl(big[1], F_SETPIPE_SZ, 256 << 10);
    MUST(grown >= 256 << 10);
    put(big[1], 100000, 2);
    put(no_writer[1], 777, 3);
    close(no_writer[1]);
    close(no_reader[0]);
    char page[4096];
    fill(page, sizeof page, 4);
    int pages = 0;
    while (write(full[1], page, sizeof page) == (ssize_t)sizeof page) pages++;
    MUST(pages == 16);
    /* One end non-blocking, the other not; the reader twice, by dup. */
    MUST(!fcntl(mixed[0], F_SETFL, O_NONBLOCK));
    int twin = dup(mixed[0]);
    ready();
    wait_for_question();

    if (sabotage) put(plain[1], 1, 9);
    CHECK(would_block(empty[0]), "the empty pipe is not");
    CHECK(fcntl(empty[0], F_GETFD) == FD_CLOEXEC, "close-on-exec is lost");
    CHECK(fcntl(plain[0], F_GETFD) == 0, "close-on-exec came from nowhere");
    put(plain[1], 4096, 5);
    take(plain[0], 5001, 1, "the plain pipe");
    take(plain[0], 4096, 5, "the plain pipe, later");
    fcntl(plain[0], F_SETFL, O_NONBLOCK);
    CHECK(would_block(plain[0]), "the plain pipe holds more than was written");
    CHECK_EQUAL(fcntl(big[0], F_GETPIPE_SZ), grown, "the size of the big pipe");
    take(big[0], 100000, 2, "the big pipe");
    take(no_writer[0], 777, 3, "the pipe without writer");
    char byte;
    CHECK_EQUAL(read(no_writer[0], &byte, 1), 0, "end of the pipe without writer");
    CHECK(write(no_reader[1], "x", 1) < 0 && errno == EPIPE, "writing without reader gives %s", strerror(errno));
    CHECK(write(full[1], page, sizeof page) < 0 && errno == EAGAIN, "the full pipe is not");
    for (int i = 0; i < pages; i++) take(full[0], sizeof page, 4, "the full pipe");
    CHECK(would_block(full[0]), "the full pipe holds more than was written");
    CHECK_EQUAL(fcntl(mixed[0], F_GETFL) & O_NONBLOCK, O_NONBLOCK, "non-blocking at the reader");
    CHECK_EQUAL(fcntl(mixed[1], F_GETFL) & O_NONBLOCK, 0, "non-blocking at the writer");
    /* Flags belong to the description, which the twin shares. */
    fcntl(twin, F_SETFL, 0);
    CHECK_EQUAL(fcntl(mixed[0], F_GETFL) & O_NONBLOCK, 0, "the twin's description");
    put(mixed[1], 10, 6);
    take(twin, 10, 6, "the mixed pipe");
    close(mixed[1]);
    CHECK_EQUAL(read(mixed[0], &byte, 1), 0, "the mixed pipe has another writer: end");
    verdict();
}
