/* A key-value server on port 7000. `mib N` (16) of memory hold a value for each page; `random PERCENT`
 * (50) of the rest of each page are incompressible. A question is a key and the value it shall have from
 * now on, each a number of eight bytes; the answer is the key and the value it had before, 0 at first.
 * Whatever else is asked of a subject, `clients` and `rate`, is for those who ask: experiment/clients.rs. */
#include <netinet/tcp.h>

#include "subject.h"
#include "listener.h"

enum { AT_ONCE = 512 };
struct question { uint64_t key, value; };
static char *block;
static size_t pages;
static long percent;
static int listener, served, lost;

static uint64_t *value_of(uint64_t key) { return (uint64_t *)(block + key % pages * PAGE); }

static bool answer(int fd, const struct question *one) {
    const char *bytes = (const char *)one;
    for (size_t left = sizeof *one; left > 0;) {
        ssize_t n = send(fd, bytes, left, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return false;
        bytes += n, left -= (size_t)n;
    }
    return true;
}

static void *serve(void *argument) {
    int fd = (int)(intptr_t)argument;
    struct question asked[AT_ONCE];
    for (size_t have = 0;;) {
        ssize_t n = recv(fd, (char *)asked + have, sizeof asked - have, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) __atomic_add_fetch(&lost, 1, __ATOMIC_RELAXED);
        if (n <= 0) break;
        have += (size_t)n;
        size_t whole = have / sizeof *asked, done = 0;
        while (done < whole) {
            struct question *one = &asked[done];
            uint64_t *slot = value_of(one->key), before = *slot;
            *slot = one->value, one->value = before;
            /* At once: a value that is not there yet shall hold up nothing that was asked before. */
            if (!answer(fd, one)) break;
            done++;
        }
        if (done < whole) {
            __atomic_add_fetch(&lost, 1, __ATOMIC_RELAXED);
            break;
        }
        have -= whole * sizeof *asked;
        memmove(asked, asked + whole, have);
    }
    close(fd);
    return NULL;
}

static void *welcome(UNUSED void *nothing) {
    for (;;) {
        int fd = accept(listener, NULL, NULL), one = 1;
        pthread_t thread;
        if (fd < 0) continue;
        if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) ||
            pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd)) {
            close(fd), lost++;
            continue;
        }
        pthread_detach(thread);
        served++;
    }
    return NULL;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    pages = (size_t)option_number("mib", 16) << 8, percent = option_number("random", 50);
    block = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(block != MAP_FAILED);
    for (size_t i = 0; i < pages; i++) fill_page(block + i * PAGE, i, 0, percent), *value_of(i) = 0;
    listener = listen_for_clients();
    pthread_t thread;
    MUST(!pthread_create(&thread, NULL, welcome, NULL));
    ready();
    wait_for_question();
    if (sabotage) block[pages / 2 * PAGE + 77] ^= 1;
    char wanted[PAGE];
    for (size_t i = 0; i < pages; i++) {
        fill_page(wanted, i, 0, percent);
        CHECK(!memcmp(wanted + 8, block + i * PAGE + 8, PAGE - 8), "page %zu differs", i);
    }
    CHECK_EQUAL(lost, 0, "connections that broke");
    snprintf(extra_report, sizeof extra_report, " served=%d", served);
    verdict();
}
