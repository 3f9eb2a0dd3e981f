/* UDP: what waits, from whom; multicast groups with their filters, on IPv4 and IPv6; a connected socket. All over the
 * loopback device, which every host has. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "subject.h"

union address { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; };

static union address at(int family, const char *text, int port) {
    union address a = {{0}};
    a.any.sa_family = (sa_family_t)family;
    if (family == AF_INET) a.v4.sin_port = htons((uint16_t)port), inet_pton(family, text, &a.v4.sin_addr);
    else a.v6.sin6_port = htons((uint16_t)port), inet_pton(family, text, &a.v6.sin6_addr);
    return a;
}
static socklen_t size_of(int family) { return family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6); }

static int bound(int family, const char *text, int port) {
    union address a = at(family, text, port);
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    MUST(fd >= 0 && !bind(fd, &a.any, size_of(family)));
    return fd;
}
static void give(int through, int family, const char *text, int port, const void *bytes, size_t length) {
    union address a = at(family, text, port);
    MUST(sendto(through, bytes, length, 0, &a.any, size_of(family)) == (ssize_t)length);
}
static void check_next(int fd, const char *bytes, size_t length, const char *who, int port, const char *what) {
    static char room[20000];
    union address from = {{0}};
    socklen_t size = sizeof from;
    ssize_t got = recvfrom(fd, room, sizeof room, 0, &from.any, &size);
    if (got != (ssize_t)length || memcmp(room, bytes, length)) {
        complain("%s: %zd bytes instead of %zu", what, got, length);
        return;
    }
    char text[64] = "";
    bool v4 = from.any.sa_family == AF_INET;
    inet_ntop(from.any.sa_family, v4 ? (void *)&from.v4.sin_addr : (void *)&from.v6.sin6_addr, text, sizeof text);
    CHECK(!strcmp(text, who) && ntohs(v4 ? from.v4.sin_port : from.v6.sin6_port) == port, "%s: from %s port %d", what, text,
          ntohs(v4 ? from.v4.sin_port : from.v6.sin6_port));
}

/* RFC 3678: how a group is joined, left, and looked at on any family. */
static int group_call(int fd, int option, const char *group, const char *source) {
    bool v6 = strchr(group, ':') != NULL;
    struct group_source_req request = {.gsr_interface = 1};
    union address g = at(v6 ? AF_INET6 : AF_INET, group, 0);
    memcpy(&request.gsr_group, &g, sizeof g);
    if (source) {
        union address s = at(v6 ? AF_INET6 : AF_INET, source, 0);
        memcpy(&request.gsr_source, &s, sizeof s);
        return setsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, option, &request, sizeof request);
    }
    struct group_req plain = {.gr_interface = 1};
    memcpy(&plain.gr_group, &g, sizeof g);
    return setsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, option, &plain, sizeof plain);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    static char large[9000];
    fill(large, sizeof large, 5);
    int plain = bound(AF_INET, "127.0.0.1", 5301), any = bound(AF_INET, "0.0.0.0", 5302), six = bound(AF_INET6, "::", 5303);
    int connected = bound(AF_INET6, "::1", 5304), sender = bound(AF_INET, "127.0.0.1", 5311), sender6 = bound(AF_INET6, "::1", 5312);
    union address peer = at(AF_INET6, "::1", 5312);
    MUST(!connect(connected, &peer.any, sizeof peer.v6));
    give(sender, AF_INET, "127.0.0.1", 5301, "one", 3);
    give(sender, AF_INET, "127.0.0.1", 5301, large, sizeof large);
    give(sender, AF_INET, "127.0.0.1", 5301, "three", 5);
    give(sender, AF_INET, "127.0.0.1", 5302, "to any", 6);
    give(sender, AF_INET, "127.0.0.1", 5303, "to six", 6);
    give(sender6, AF_INET6, "::1", 5303, large, 3001);
    give(sender6, AF_INET6, "::1", 5304, "connected", 9);
    /* Hears everybody, everybody but one, and one alone. */
    int idle = bound(AF_INET6, "::", 5305);
    MUST(!group_call(any, MCAST_JOIN_GROUP, "239.77.0.1", NULL));
    MUST(!group_call(any, MCAST_JOIN_GROUP, "239.77.0.2", NULL) && !group_call(any, MCAST_BLOCK_SOURCE, "239.77.0.2", "192.0.2.9"));
    MUST(!group_call(any, MCAST_JOIN_SOURCE_GROUP, "239.77.0.3", "127.0.0.1"));
    MUST(!group_call(idle, MCAST_JOIN_GROUP, "ff02::7701", NULL) && !group_call(idle, MCAST_JOIN_GROUP, "239.77.0.4", NULL));
    MUST(!group_call(idle, MCAST_JOIN_SOURCE_GROUP, "ff02::7702", "2001:db8::9"));
    ready();
    wait_for_question();

    if (sabotage) (void)!group_call(idle, MCAST_LEAVE_GROUP, "239.77.0.4", NULL), (void)!recv(plain, large, 1, 0), fill(large, sizeof large, 5);
    check_next(plain, "one", 3, "127.0.0.1", 5311, "the first datagram");
    check_next(plain, large, sizeof large, "127.0.0.1", 5311, "the large datagram");
    check_next(plain, "three", 5, "127.0.0.1", 5311, "the last datagram");
    CHECK(recv(plain, large, 1, 0) < 0 && errno == EAGAIN, "there is one more");
    check_next(any, "to any", 6, "127.0.0.1", 5311, "the datagram to any address");
    check_next(six, "to six", 6, "::ffff:127.0.0.1", 5311, "the datagram of IPv4");
    check_next(six, large, 3001, "::1", 5312, "the datagram of IPv6");
    check_next(connected, "connected", 9, "::1", 5312, "the connected socket");
    /* The group is heard, by the one that joined it. */
    struct in_addr loopback = {htonl(INADDR_LOOPBACK)};
    MUST(!setsockopt(sender, IPPROTO_IP, IP_MULTICAST_IF, &loopback, sizeof loopback));
    give(sender, AF_INET, "239.77.0.1", 5302, "all", 3);
    CHECK(EVENTUALLY(recv(any, large, 1, MSG_PEEK) == 1), "the group is silent");
    check_next(any, "all", 3, "127.0.0.1", 5311, "the datagram to the group");
    CHECK(!group_call(any, MCAST_LEAVE_GROUP, "239.77.0.1", NULL), "239.77.0.1 was left: %s", strerror(errno));
    CHECK(!group_call(any, MCAST_UNBLOCK_SOURCE, "239.77.0.2", "192.0.2.9"), "nobody is blocked in 239.77.0.2: %s", strerror(errno));
    CHECK(!group_call(any, MCAST_LEAVE_SOURCE_GROUP, "239.77.0.3", "127.0.0.1"), "nobody is heard in 239.77.0.3: %s", strerror(errno));
    CHECK(!group_call(idle, MCAST_LEAVE_GROUP, "239.77.0.4", NULL), "239.77.0.4 was left: %s", strerror(errno));
    CHECK(!group_call(idle, MCAST_LEAVE_GROUP, "ff02::7701", NULL), "ff02::7701 was left: %s", strerror(errno));
    CHECK(!group_call(idle, MCAST_LEAVE_SOURCE_GROUP, "ff02::7702", "2001:db8::9"), "ff02::7702 was left: %s", strerror(errno));
    verdict();
}
