/* TCP connections whose both ends are in the tree, over IPv4, IPv6 and IPv4 in IPv6: idle, with
 * data waiting at either end, with more written than was sent, and half closed. With `full 0` it is
 * only what a stock CRIU restores: all that was written was sent, and a few options are not set. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "subject.h"

union address { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; };
enum kind { IDLE, WAITING, FULL, ENDED, KINDS };
static const char *kind_names[] = {"idle", "waiting", "full", "ended"};
struct stream { const char *family; enum kind kind; int near, far; size_t written; union address names[4]; int scales; };
enum { FAMILIES = 3, PIECE = 4096, SMALL = 70000 };

static int option(int fd, int level, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    return getsockopt(fd, level, name, &value, &size) ? -1 : value;
}
static int set(int fd, int level, int name, int value) { return setsockopt(fd, level, name, &value, sizeof value); }

/* struct tcp_info: window scales are in its seventh byte. */
static int scales_of(int fd) {
    unsigned char info[8] = {0};
    socklen_t size = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) ? -1 : info[6];
}

static void names_of(const struct stream *s, union address names[4]) {
    memset(names, 0, 4 * sizeof *names);
    for (int i = 0; i < 4; i++) {
        socklen_t size = sizeof *names;
        int fd = i < 2 ? s->near : s->far;
        MUST(!(i % 2 ? getpeername(fd, &names[i].any, &size) : getsockname(fd, &names[i].any, &size)));
    }
}

/* The byte at a place of a stream is its own. */
static void piece_at(size_t place, unsigned char *into, size_t length) {
    for (size_t i = 0; i < length; i++) into[i] = (unsigned char)scramble((place + i) / 8) + (unsigned char)(place + i);
}
static size_t write_all(int fd, size_t from, size_t most) {
    unsigned char bytes[PIECE];
    while (from < most) {
        size_t want = most - from < PIECE ? most - from : PIECE;
        piece_at(from, bytes, want);
        ssize_t n = send(fd, bytes, want, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n <= 0) break;
        from += (size_t)n;
    }
    return from;
}
static void check_read(int fd, size_t length, const struct stream *s, const char *whose) {
    unsigned char bytes[PIECE], wanted[PIECE];
    struct timeval patience = {10, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (size_t at = 0; at < length;) {
        size_t want = length - at < PIECE ? length - at : PIECE;
        ssize_t n = read(fd, bytes, want);
        if (n <= 0) {
            complain("%s %s: %s reads %zu of %zu bytes: %s", s->family, kind_names[s->kind], whose, at, length, n ? strerror(errno) : "the end");
            return;
        }
        piece_at(at, wanted, (size_t)n);
        if (memcmp(bytes, wanted, (size_t)n)) {
            complain("%s %s: %s reads other bytes at %zu", s->family, kind_names[s->kind], whose, at);
            return;
        }
        at += (size_t)n;
    }
}
static void check_end(int fd, const struct stream *s, const char *whose) {
    char byte;
    CHECK(read(fd, &byte, 1) == 0, "%s %s: %s does not read the end", s->family, kind_names[s->kind], whose);
}
static void check_idle(int fd, const struct stream *s, const char *whose) {
    char byte;
    CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "%s %s: %s is not idle: %s", s->family, kind_names[s->kind], whose, strerror(errno));
}

static struct stream make(const char *family, enum kind kind, int listener, const union address *at, socklen_t size, int client_family) {
    struct stream s = {.family = family, .kind = kind};
    s.near = socket(client_family, SOCK_STREAM, 0);
    MUST(s.near >= 0 && !connect(s.near, &at->any, size) && (s.far = accept(listener, NULL, NULL)) >= 0);
    MUST(!set(s.near, IPPROTO_TCP, TCP_NODELAY, 1) && !set(s.near, SOL_SOCKET, SO_KEEPALIVE, 1) && !set(s.near, IPPROTO_TCP, TCP_KEEPIDLE, 77));
    if (option_number("full", 1)) MUST(!set(s.near, IPPROTO_IP, IP_TOS, 0x28) && !set(s.near, IPPROTO_TCP, TCP_USER_TIMEOUT, 54321));
    switch (kind) {
    case IDLE: break;
    case WAITING: /* both directions, and some of it read already */
        MUST(write_all(s.near, 0, SMALL) == SMALL && write_all(s.far, 0, 100) == 100);
        check_read(s.far, 1000, &s, "the far end");
        MUST(!complaint_count);
        break;
    case FULL: s.written = write_all(s.near, 0, option_number("full", 1) ? SIZE_MAX : 1000); break;
    case ENDED:
        MUST(write_all(s.near, 0, 5000) == 5000 && !shutdown(s.near, SHUT_WR));
        break;
    default: break;
    }
    names_of(&s, s.names);
    s.scales = scales_of(s.near);
    return s;
}

/* The rest of what was begun above; at the end of every kind both directions are closed. */
static void judge(struct stream *s) {
    union address names[4];
    names_of(s, names);
    CHECK(!memcmp(names, s->names, sizeof names), "%s %s: an address has changed", s->family, kind_names[s->kind]);
    CHECK_EQUAL(scales_of(s->near), s->scales, "the window scales");
    CHECK_EQUAL(option(s->near, IPPROTO_TCP, TCP_NODELAY), 1, "TCP_NODELAY");
    CHECK_EQUAL(option(s->far, IPPROTO_TCP, TCP_NODELAY), 0, "TCP_NODELAY of the far end");
    CHECK_EQUAL(option(s->near, SOL_SOCKET, SO_KEEPALIVE), 1, "SO_KEEPALIVE");
    CHECK_EQUAL(option(s->near, IPPROTO_TCP, TCP_KEEPIDLE), 77, "TCP_KEEPIDLE");
    if (option_number("full", 1)) {
        CHECK_EQUAL(option(s->near, IPPROTO_IP, IP_TOS), 0x28, "IP_TOS");
        CHECK_EQUAL(option(s->near, IPPROTO_TCP, TCP_USER_TIMEOUT), 54321, "TCP_USER_TIMEOUT");
    }
    CHECK_EQUAL(option(s->far, SOL_SOCKET, SO_REUSEADDR), 1, "SO_REUSEADDR of the far end");
    size_t sent = 0, back = 0;
    switch (s->kind) {
    case IDLE:
        check_idle(s->near, s, "the near end");
        check_idle(s->far, s, "the far end");
        break;
    case WAITING: { /* check_read starts at zero, a thousand bytes are gone */
        unsigned char rest[SMALL], wanted[SMALL];
        size_t at = 0, left = SMALL - 1000;
        while (at < left) {
            ssize_t n = read(s->far, rest + at, left - at);
            if (n <= 0) break;
            at += (size_t)n;
        }
        piece_at(1000, wanted, left);
        CHECK(at == left && !memcmp(rest, wanted, left), "%s waiting: %zu of %zu bytes wait, or others", s->family, at, left);
        sent = 0, back = 100;
        break;
    }
    case FULL: sent = s->written; break;
    case ENDED: sent = 5000; break;
    default: break;
    }
    check_read(s->far, sent, s, "the far end");
    check_read(s->near, back, s, "the near end");
    if (s->kind != ENDED) {
        CHECK(write_all(s->near, 0, 3000) == 3000, "%s %s: the near end cannot write", s->family, kind_names[s->kind]);
        check_read(s->far, 3000, s, "the far end");
        CHECK(!shutdown(s->near, SHUT_WR), "shutdown: %s", strerror(errno));
    }
    check_end(s->far, s, "the far end");
    CHECK(write_all(s->far, 0, 3000) == 3000, "%s %s: the far end cannot write", s->family, kind_names[s->kind]);
    check_read(s->near, 3000, s, "the near end");
    close(s->far);
    check_end(s->near, s, "the near end");
    close(s->near);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    struct stream streams[FAMILIES * KINDS];
    int listeners[FAMILIES];
    union address addresses[FAMILIES];
    for (int family = 0; family < FAMILIES; family++) {
        union address *at = &addresses[family];
        memset(at, 0, sizeof *at);
        socklen_t size = family ? sizeof at->v6 : sizeof at->v4;
        int *listener = &listeners[family];
        if (family) at->v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        else at->v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
        if (family == 2) MUST(inet_pton(AF_INET6, "::ffff:127.0.0.1", &at->v6.sin6_addr) == 1);
        *listener = socket(at->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        MUST(*listener >= 0 && !set(*listener, SOL_SOCKET, SO_REUSEADDR, 1));
        MUST(!bind(*listener, &at->any, size) && !listen(*listener, 16) && !getsockname(*listener, &at->any, &size));
        for (int kind = 0; kind < KINDS; kind++) {
            static const char *names[] = {"IPv4", "IPv6", "IPv4 in IPv6"};
            streams[family * KINDS + kind] = make(names[family], (enum kind)kind, *listener, at, size, at->any.sa_family);
        }
    }
    ready();
    wait_for_question();
    if (sabotage) {
        char byte;
        MUST(read(streams[WAITING].far, &byte, 1) == 1);
    }
    for (int i = 0; i < FAMILIES * KINDS; i++) judge(&streams[i]);
    for (int family = 0; family < FAMILIES; family++) {
        socklen_t size = family ? sizeof addresses->v6 : sizeof addresses->v4;
        int client = socket(addresses[family].any.sa_family, SOCK_STREAM, 0);
        CHECK(!connect(client, &addresses[family].any, size), "connect again: %s", strerror(errno));
        fcntl(listeners[family], F_SETFL, O_NONBLOCK);
        CHECK(EVENTUALLY(accept(listeners[family], NULL, NULL) >= 0), "accept again: %s", strerror(errno));
    }
    verdict();
}
