/* Raw sockets: protocols, filters, addresses, groups; over the loopback device, which every host has. */
#include <arpa/inet.h>
#include <linux/icmp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "subject.h"

#define OSPF 89

static int open_raw(int family, int protocol) {
    int fd = socket(family, SOCK_RAW | SOCK_NONBLOCK, protocol);
    MUST(fd >= 0);
    return fd;
}

static uint32_t number_of(int fd, int level, int option) {
    uint32_t value = 0xdeadbeef;
    socklen_t size = sizeof value;
    CHECK(!getsockopt(fd, level, option, &value, &size), "option %d of level %d: %s", option, level, strerror(errno));
    return value;
}

/* The type of the next ICMP message, -1 if there is none. */
static int next_type(int fd, bool v6) {
    unsigned char bytes[500];
    ssize_t got = recv(fd, bytes, sizeof bytes, 0);
    if (got < 0) return -1;
    return v6 ? bytes[0] : bytes[(bytes[0] & 15) * 4];
}

static void drain(int fd) {
    char byte;
    while (recv(fd, &byte, 1, 0) >= 0) {}
}

int main(int argc, char **argv) {
    begin(argc, argv);
    struct sockaddr_in lo = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int ping = open_raw(AF_INET, IPPROTO_ICMP), ping6 = open_raw(AF_INET6, IPPROTO_ICMPV6);
    int routes = open_raw(AF_INET, OSPF), writes = open_raw(AF_INET, IPPROTO_RAW);
    struct icmp_filter filter = {.data = ~(1u << ICMP_ECHO)};
    MUST(!setsockopt(ping, SOL_RAW, ICMP_FILTER, &filter, sizeof filter));
    MUST(!bind(ping, (struct sockaddr *)&lo, sizeof lo) && !connect(ping, (struct sockaddr *)&lo, sizeof lo));
    struct icmp6_filter filter6;
    ICMP6_FILTER_SETBLOCKALL(&filter6);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter6);
    MUST(!setsockopt(ping6, IPPROTO_ICMPV6, ICMP6_FILTER, &filter6, sizeof filter6));
    struct ip_mreqn group = {.imr_multiaddr.s_addr = inet_addr("224.0.0.5"), .imr_ifindex = 1};
    int ttl = 7, off = 0;
    MUST(!setsockopt(routes, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group) && !setsockopt(routes, IPPROTO_IP, IP_TTL, &ttl, sizeof ttl));
    MUST(!setsockopt(writes, IPPROTO_IP, IP_HDRINCL, &off, sizeof off));
    ready();
    wait_for_question();

    if (sabotage) filter.data = 0, setsockopt(ping, SOL_RAW, ICMP_FILTER, &filter, sizeof filter);
    CHECK_EQUAL(number_of(ping, SOL_SOCKET, SO_PROTOCOL), IPPROTO_ICMP, "the protocol");
    CHECK_EQUAL(number_of(routes, SOL_SOCKET, SO_PROTOCOL), OSPF, "the protocol of routes");
    CHECK_EQUAL(number_of(routes, IPPROTO_IP, IP_TTL), 7, "the time to live");
    CHECK_EQUAL(number_of(ping, SOL_RAW, ICMP_FILTER), ~(1u << ICMP_ECHO), "the filter");
    CHECK_EQUAL(number_of(writes, IPPROTO_IP, IP_HDRINCL), 0, "who writes headers");
    struct icmp6_filter kept;
    socklen_t size = sizeof kept;
    CHECK(!getsockopt(ping6, IPPROTO_ICMPV6, ICMP6_FILTER, &kept, &size) && !memcmp(&kept, &filter6, sizeof kept), "the filter of IPv6 differs");
    CHECK_EQUAL(fcntl(ping, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "non-blocking");
    struct sockaddr_in own = {0};
    size = sizeof own;
    CHECK(!getsockname(ping, (struct sockaddr *)&own, &size) && own.sin_addr.s_addr == lo.sin_addr.s_addr, "its address differs");

    drain(ping), drain(ping6), drain(routes);
    /* Connected: it needs no address. The kernel's answer is filtered out, the question is not. */
    unsigned char ask[8] = {ICMP_ECHO, 0, 0xf7, 0xfd, 0, 1, 0, 1};
    CHECK(send(ping, ask, sizeof ask, 0) == sizeof ask, "nothing is sent: %s", strerror(errno));
    int type = -1;
    CHECK(EVENTUALLY((type = next_type(ping, false)) >= 0) && type == ICMP_ECHO, "a message of type %d", type);
    CHECK((type = next_type(ping, false)) < 0, "another message, of type %d", type);
    struct sockaddr_in6 lo6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    unsigned char ask6[8] = {ICMP6_ECHO_REQUEST};
    CHECK(sendto(ping6, ask6, sizeof ask6, 0, (struct sockaddr *)&lo6, sizeof lo6) == sizeof ask6, "nothing is sent over IPv6: %s", strerror(errno));
    CHECK(EVENTUALLY((type = next_type(ping6, true)) >= 0) && type == ICMP6_ECHO_REPLY, "a message of type %d over IPv6", type);
    struct sockaddr_in all = {.sin_family = AF_INET, .sin_addr = group.imr_multiaddr};
    struct ip_mreqn through = {.imr_ifindex = 1};
    CHECK(!setsockopt(writes, IPPROTO_IP, IP_MULTICAST_IF, &through, sizeof through), "no interface: %s", strerror(errno));
    int sender = socket(AF_INET, SOCK_RAW, OSPF);
    CHECK(sender >= 0 && !setsockopt(sender, IPPROTO_IP, IP_MULTICAST_IF, &through, sizeof through)
          && sendto(sender, "hello", 5, 0, (struct sockaddr *)&all, sizeof all) == 5, "nothing is sent to the group: %s", strerror(errno));
    char bytes[100];
    CHECK(EVENTUALLY(recv(routes, bytes, sizeof bytes, 0) == 25), "nothing comes from the group");
    verdict();
}
