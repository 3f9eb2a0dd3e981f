/* Sockets without a peer outside: unix pairs (one end with a child), listeners that must accept
 * afterwards (unix by path and abstract, TCP on IPv4 and IPv6), idle bound UDP, and their options. With "criu 1" only
 * what a stock CRIU has a place for: it loses some options, and descriptors on their way. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "subject.h"

union address { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; struct sockaddr_un un; };
struct named { int fd; union address at; socklen_t size; const char *what; };

static struct named bound(int family, int type, const union address *at, socklen_t size, const char *what) {
    struct named s = {socket(family, type | SOCK_CLOEXEC, 0), {{0}}, sizeof s.at, what};
    int one = 1;
    MUST(s.fd >= 0);
    if (family != AF_UNIX) MUST(!setsockopt(s.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    if (family == AF_INET6) MUST(!setsockopt(s.fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one));
    MUST(!bind(s.fd, &at->any, size));
    if ((type & 0xf) == SOCK_STREAM) MUST(!listen(s.fd, 17));
    MUST(!getsockname(s.fd, &s.at.any, &s.size));
    return s;
}

static void check_name(struct named *s) {
    union address is = {{0}};
    socklen_t size = sizeof is;
    CHECK(!getsockname(s->fd, &is.any, &size) && size == s->size && !memcmp(&is, &s->at, size), "the name of %s has changed", s->what);
}

static int option(int fd, int level, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    return getsockopt(fd, level, name, &value, &size) ? -1 : value;
}

static void check_accepts(struct named *s) {
    int family = s->at.any.sa_family, client = socket(family, SOCK_STREAM, 0);
    check_name(s);
    CHECK_EQUAL(option(s->fd, SOL_SOCKET, SO_ACCEPTCONN), 1, s->what);
    struct timeval patience = {5, 0};
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(client, &s->at.any, s->size)) {
        complain("%s: connect: %s", s->what, strerror(errno));
        return;
    }
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
    int server = -1;
    char byte = 0;
    CHECK(EVENTUALLY((server = accept(s->fd, NULL, NULL)) >= 0), "%s: accept: %s", s->what, strerror(errno));
    CHECK(write(client, "!", 1) == 1 && read(server, &byte, 1) == 1 && byte == '!', "%s: a byte is lost", s->what);
}

/* Sends descriptors with some bytes. */
static bool pass(int through, const char *bytes, const int *fds, size_t count) {
    union { char room[CMSG_SPACE(4 * sizeof(int))]; struct cmsghdr aligned; } control = {{0}};
    struct iovec vector = {(void *)(uintptr_t)bytes, strlen(bytes)};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int))};
    memcpy(CMSG_DATA(head), fds, count * sizeof(int));
    return sendmsg(through, &message, 0) == (ssize_t)vector.iov_len;
}

/* Receives at most `room` bytes, which must be these, and that many descriptors. */
static void check_passed(int through, size_t room, const char *bytes, int *fds, size_t count) {
    union { char room[CMSG_SPACE(4 * sizeof(int))]; struct cmsghdr aligned; } control = {{0}};
    char got[64] = "";
    struct iovec vector = {got, room};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(through, &message, MSG_DONTWAIT);
    struct cmsghdr *head = n < 0 ? NULL : CMSG_FIRSTHDR(&message);
    size_t came = head && head->cmsg_type == SCM_RIGHTS ? (head->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
    CHECK(n == (ssize_t)strlen(bytes) && !memcmp(got, bytes, strlen(bytes)), "`%s` came instead of `%s`", n < 0 ? strerror(errno) : got, bytes);
    CHECK(came == count, "%zu descriptors came with `%s` instead of %zu", came, bytes, count);
    for (size_t i = 0; i < count; i++) fds[i] = -1;
    if (head) memcpy(fds, CMSG_DATA(head), (came < count ? came : count) * sizeof(int));
}

static pid_t echo_child(int fd) {
    pid_t child = fork();
    MUST(child >= 0);
    if (child) return child;
    char bytes[64];
    ssize_t n;
    while ((n = read(fd, bytes, sizeof bytes)) > 0)
        if (write(fd, bytes, (size_t)n) != n) _exit(1);
    _exit(n ? 2 : 23);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    int stream[2], dgram[2], packets[2], with_child[2];
    MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, stream) && !socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, dgram));
    MUST(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, packets) && !socketpair(AF_UNIX, SOCK_STREAM, 0, with_child));
    /* On their way: an end of a pipe that we have too, and things that nobody else has: a file, and a
     * socket with a descriptor on its way in it. */
    bool all = !option_number("criu", 0);
    int carrier[2], parcels[2], inner[2], tube[2];
    if (all) {
        MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, carrier) && !socketpair(AF_UNIX, SOCK_DGRAM, 0, parcels) && !socketpair(AF_UNIX, SOCK_STREAM, 0, inner) && !pipe(tube));
        int passed = open(path_in(shared_dir, "passed"), O_RDWR | O_CREAT, 0600);
        MUST(passed >= 0 && write(passed, "content", 7) == 7 && lseek(passed, 3, SEEK_SET) == 3);
        MUST(pass(inner[0], "inner", tube, 2) && send(carrier[0], "before", 6, 0) == 6);
        MUST(pass(carrier[0], "with", (int[]){passed, tube[1], inner[1]}, 3) && send(carrier[0], "after", 5, 0) == 5);
        MUST(pass(parcels[0], "parcel", (int[]){tube[1]}, 1) && !close(passed) && !close(inner[1]) && !close(inner[0]));
    }
    long queued = option_number("queued", 0);
    if (queued) MUST(write(stream[0], "waiting", 7) == 7 && send(dgram[0], "one", 3, 0) == 3 && send(dgram[0], "three", 5, 0) == 5);

    union address at = {.un = {.sun_family = AF_UNIX}};
    char *path = path_in(scratch_dir, "listener");
    strncpy(at.un.sun_path, path, sizeof at.un.sun_path - 1);
    struct named by_path = bound(AF_UNIX, SOCK_STREAM, &at, sizeof at.un, "the unix listener by path");
    at = (union address){.un = {.sun_family = AF_UNIX}};
    int length = snprintf(at.un.sun_path + 1, sizeof at.un.sun_path - 1, "subject-%d", getpid());
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
    struct named abstract = bound(AF_UNIX, SOCK_STREAM, &at, size, "the abstract unix listener");
    at = (union address){.v4 = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}}};
    struct named tcp = bound(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, &at, sizeof at.v4, "the TCP listener");
    struct named udp = bound(AF_INET, SOCK_DGRAM, &at, sizeof at.v4, "the UDP socket");
    at = (union address){.v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}};
    struct named tcp6 = bound(AF_INET6, SOCK_STREAM, &at, sizeof at.v6, "the TCP listener on IPv6");
    struct named udp6 = bound(AF_INET6, SOCK_DGRAM, &at, sizeof at.v6, "the UDP socket on IPv6");
    int one = 1, room = 300 << 10;
    MUST(!setsockopt(tcp.fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one) && !setsockopt(tcp.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
    MUST(!setsockopt(udp.fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof one) && !setsockopt(stream[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room));
    struct timeval patience = {3, 500000};
    MUST(!setsockopt(stream[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
    /* What differs from a new socket's, for each of the levels. */
    int tos = 0x28, ttl = 33, hops = 9, timeout = 54321, off = 0;
    MUST(!setsockopt(udp.fd, IPPROTO_IP, IP_TOS, &tos, sizeof tos) && !setsockopt(udp.fd, IPPROTO_IP, IP_TTL, &ttl, sizeof ttl));
    MUST(!setsockopt(udp.fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof one));
    if (all) {
        MUST(!setsockopt(udp.fd, IPPROTO_IP, IP_MULTICAST_TTL, &hops, sizeof hops) && !setsockopt(udp.fd, IPPROTO_IP, IP_MULTICAST_LOOP, &off, sizeof off));
        MUST(!setsockopt(udp.fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one));
        MUST(!setsockopt(udp6.fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, &hops, sizeof hops) && !setsockopt(udp6.fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof one));
        MUST(!setsockopt(tcp.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout) && !setsockopt(tcp.fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    }
    int room_was = option(stream[0], SOL_SOCKET, SO_SNDBUF);
    pid_t child = echo_child(with_child[1]);
    close(with_child[1]);
    /* The child holds every other descriptor too, so nothing may end because we alone let go. */
    ready();
    wait_for_question();

    int zero = 0;
    if (sabotage) setsockopt(tcp.fd, SOL_SOCKET, SO_KEEPALIVE, &zero, sizeof zero);
    char bytes[64] = "";
    if (queued) {
        CHECK(read(stream[1], bytes, 64) == 7 && !memcmp(bytes, "waiting", 7), "the queue of the stream pair");
        CHECK(recv(dgram[1], bytes, 64, 0) == 3 && recv(dgram[1], bytes, 64, 0) == 5, "the queue of the datagram pair");
    }
    CHECK(recv(stream[0], bytes, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "the stream pair is not idle: %s", strerror(errno));
    if (all) {
        int came[3], deeper[2], again[1];
        char through[8] = "";
        check_passed(carrier[1], 6, "before", came, 0);
        check_passed(carrier[1], 64, "with", came, 3);
        check_passed(carrier[1], 64, "after", deeper, 0);
        check_passed(parcels[1], 64, "parcel", again, 1);
        CHECK(read(came[0], through, 8) == 4 && !memcmp(through, "tent", 4), "the passed file");
        check_passed(came[2], 64, "inner", deeper, 2);
        CHECK(write(came[1], "1", 1) == 1 && write(again[0], "2", 1) == 1 && write(deeper[1], "3", 1) == 1 && read(tube[0], through, 8) == 3, "the passed pipe");
        CHECK(read(came[2], through, 1) == 0, "the passed socket has not ended");
    }
    CHECK(write(stream[0], "there", 5) == 5 && read(stream[1], bytes, 64) == 5, "the stream pair, there");
    CHECK(write(stream[1], "back", 4) == 4 && read(stream[0], bytes, 64) == 4, "the stream pair, back");
    CHECK(recv(dgram[0], bytes, 64, 0) < 0 && errno == EAGAIN, "the datagram pair is not idle or blocks");
    CHECK(send(dgram[0], "a", 1, 0) == 1 && send(dgram[0], "bc", 2, 0) == 2 && recv(dgram[1], bytes, 64, 0) == 1 && recv(dgram[1], bytes, 64, 0) == 2,
          "the datagram pair loses its borders");
    CHECK(send(packets[1], "def", 3, 0) == 3 && recv(packets[0], bytes, 64, 0) == 3, "the packet pair");
    CHECK_EQUAL(option(packets[0], SOL_SOCKET, SO_TYPE), SOCK_SEQPACKET, "the type of the packet pair");
    CHECK_EQUAL(fcntl(packets[0], F_GETFD), FD_CLOEXEC, "close-on-exec of the packet pair");
    CHECK(write(with_child[0], "echo", 4) == 4 && read(with_child[0], bytes, 64) == 4 && !memcmp(bytes, "echo", 4), "the child's end");
    shutdown(with_child[0], SHUT_WR);
    check_exit(child, 23, "the child");

    check_accepts(&by_path);
    check_accepts(&abstract);
    CHECK_EQUAL(fcntl(tcp.fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "non-blocking of the TCP listener");
    CHECK_EQUAL(fcntl(tcp6.fd, F_GETFL) & O_NONBLOCK, 0, "non-blocking of the TCP listener on IPv6");
    check_accepts(&tcp);
    check_accepts(&tcp6);
    struct named *datagrams[] = {&udp, &udp6};
    for (int i = 0; i < 2; i++) {
        struct named *s = datagrams[i];
        check_name(s);
        int client = socket(s->at.any.sa_family, SOCK_DGRAM, 0);
        CHECK(sendto(client, "ping", 4, 0, &s->at.any, s->size) == 4, "%s: %s", s->what, strerror(errno));
        CHECK(EVENTUALLY(recv(s->fd, bytes, 64, MSG_DONTWAIT) == 4), "%s does not receive", s->what);
    }
    CHECK_EQUAL(option(tcp.fd, SOL_SOCKET, SO_KEEPALIVE), 1, "SO_KEEPALIVE");
    CHECK_EQUAL(option(tcp.fd, SOL_SOCKET, SO_REUSEADDR), 1, "SO_REUSEADDR");
    CHECK_EQUAL(option(tcp.fd, IPPROTO_TCP, TCP_NODELAY), 1, "TCP_NODELAY");
    CHECK_EQUAL(option(tcp6.fd, IPPROTO_IPV6, IPV6_V6ONLY), 1, "IPV6_V6ONLY");
    CHECK_EQUAL(option(udp.fd, SOL_SOCKET, SO_BROADCAST), 1, "SO_BROADCAST");
    CHECK_EQUAL(option(udp.fd, IPPROTO_IP, IP_TOS), tos, "IP_TOS");
    CHECK_EQUAL(option(udp.fd, IPPROTO_IP, IP_TTL), ttl, "IP_TTL");
    CHECK_EQUAL(option(udp.fd, IPPROTO_IP, IP_PKTINFO), 1, "IP_PKTINFO");
    if (all) {
        CHECK_EQUAL(option(udp.fd, IPPROTO_IP, IP_MULTICAST_TTL), hops, "IP_MULTICAST_TTL");
        CHECK_EQUAL(option(udp.fd, IPPROTO_IP, IP_MULTICAST_LOOP), 0, "IP_MULTICAST_LOOP");
        CHECK_EQUAL(option(udp.fd, SOL_SOCKET, SO_TIMESTAMPNS), 1, "SO_TIMESTAMPNS");
        CHECK_EQUAL(option(udp6.fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS), hops, "IPV6_UNICAST_HOPS");
        CHECK_EQUAL(option(udp6.fd, IPPROTO_IPV6, IPV6_RECVPKTINFO), 1, "IPV6_RECVPKTINFO");
        CHECK_EQUAL(option(tcp.fd, IPPROTO_TCP, TCP_USER_TIMEOUT), timeout, "TCP_USER_TIMEOUT");
        char control[16] = "";
        socklen_t control_size = sizeof control;
        CHECK(!getsockopt(tcp.fd, IPPROTO_TCP, TCP_CONGESTION, control, &control_size) && !strcmp(control, "reno"), "TCP_CONGESTION is %s", control);
    }
    CHECK_EQUAL(option(stream[0], SOL_SOCKET, SO_SNDBUF), room_was, "SO_SNDBUF");
    struct timeval is = {0, 0};
    socklen_t time_size = sizeof is;
    CHECK(!getsockopt(stream[0], SOL_SOCKET, SO_RCVTIMEO, &is, &time_size) && is.tv_sec == 3 && is.tv_usec / 100000 == 5, "SO_RCVTIMEO is %ld.%06ld",
          (long)is.tv_sec, (long)is.tv_usec);
    verdict();
}
