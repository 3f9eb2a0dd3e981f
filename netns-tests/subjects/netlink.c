/* Sockets of netlink(7): ports, groups, options, who they are connected to; answers and news of the kernel.
 *
 * `all 0`: without what a stock CRIU does not carry. */
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include "subject.h"

/* Nothing that happens of itself. */
#define GROUPS (RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_RULE)
#define HIGH_GROUP 33 /* RTNLGRP_BRVLAN: beyond the 32 that an address can name */

static int open_as(int kind, int protocol, uint32_t port, uint32_t groups) {
    struct sockaddr_nl own = {.nl_family = AF_NETLINK, .nl_pid = port, .nl_groups = groups};
    int fd = socket(AF_NETLINK, kind, protocol);
    MUST(fd >= 0 && (!port || !bind(fd, (struct sockaddr *)&own, sizeof own)));
    return fd;
}

static struct sockaddr_nl named(int fd, int (*ask)(int, struct sockaddr *, socklen_t *)) {
    struct sockaddr_nl name = {0};
    socklen_t size = sizeof name;
    CHECK(!ask(fd, (struct sockaddr *)&name, &size) && size == sizeof name, "no name: %s", strerror(errno));
    return name;
}
static int own_name(int fd, struct sockaddr *name, socklen_t *size) { return getsockname(fd, name, size); }
static int peer_name(int fd, struct sockaddr *name, socklen_t *size) { return getpeername(fd, name, size); }

static int option(int fd, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_NETLINK, name, &value, &size) ? -errno : value;
}

static bool hears(int fd, unsigned group) {
    uint32_t words[32] = {0};
    socklen_t size = sizeof words;
    return !getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &size) && words[(group - 1) / 32] >> (group - 1) % 32 & 1;
}

/* Give the loopback device one more address, or take it away. */
static bool change_address(int fd, int type) {
    struct {
        struct nlmsghdr head;
        struct ifaddrmsg body;
        struct rtattr attribute;
        struct in_addr address;
    } ask = {
        .head = {.nlmsg_len = sizeof ask, .nlmsg_type = (uint16_t)type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, .nlmsg_seq = 77},
        .body = {.ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = if_nametoindex("lo")},
        .attribute = {.rta_len = RTA_LENGTH(4), .rta_type = IFA_LOCAL},
        .address.s_addr = inet_addr("127.7.7.7"),
    };
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        char more[500];
    } answer;
    if (send(fd, &ask, sizeof ask, 0) != sizeof ask) return false;
    ssize_t got = recv(fd, &answer, sizeof answer, 0);
    return got >= (ssize_t)(sizeof answer.head + 4) && answer.head.nlmsg_type == NLMSG_ERROR && answer.head.nlmsg_seq == 77 && !answer.error.error;
}

static bool comes(int fd, int type) {
    char bytes[2000];
    ssize_t got = recv(fd, bytes, sizeof bytes, 0);
    struct nlmsghdr head;
    if (got >= (ssize_t)sizeof head) memcpy(&head, bytes, sizeof head);
    return got >= (ssize_t)sizeof head && head.nlmsg_type == type;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    bool all = option_number("all", 1);
    uint32_t port = 0x40000000u | (uint32_t)getpid();
    int on = 1, high = HIGH_GROUP, size = 300000;
    int asks = open_as((all ? SOCK_DGRAM : SOCK_RAW) | SOCK_CLOEXEC, NETLINK_ROUTE, port, 0);
    int news = open_as(SOCK_RAW, NETLINK_ROUTE, port + 1, GROUPS);
    int devices = open_as(SOCK_RAW | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT, port + 2, 2);
    int speaks = open_as(SOCK_RAW, NETLINK_ROUTE, port + 3, 0), fresh = open_as(SOCK_RAW, NETLINK_ROUTE, 0, 0);
    struct sockaddr_nl to = {.nl_family = AF_NETLINK, .nl_pid = port + 1};
    MUST(!connect(speaks, (struct sockaddr *)&to, sizeof to));
    MUST(!all || !setsockopt(news, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &high, sizeof high));
    MUST(!setsockopt(asks, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on) && !setsockopt(news, SOL_NETLINK, NETLINK_PKTINFO, &on, sizeof on));
    MUST(!setsockopt(devices, SOL_NETLINK, NETLINK_NO_ENOBUFS, &on, sizeof on) && !setsockopt(devices, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size));
    struct timeval patience = {.tv_sec = 20};
    MUST(!setsockopt(news, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) && !setsockopt(asks, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
    MUST(change_address(asks, RTM_NEWADDR) && comes(news, RTM_NEWADDR) && change_address(asks, RTM_DELADDR) && comes(news, RTM_DELADDR));
    ready();
    wait_for_question();

    int rules = 8;
    if (sabotage) setsockopt(news, SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, &rules, sizeof rules);
    CHECK_EQUAL(named(asks, own_name).nl_pid, port, "the port of the one that asks");
    CHECK_EQUAL(named(news, own_name).nl_pid, port + 1, "the port of the one that hears");
    CHECK_EQUAL(named(news, own_name).nl_groups, GROUPS, "its groups");
    CHECK_EQUAL(named(devices, own_name).nl_pid, port + 2, "the port of the one that hears of devices");
    CHECK_EQUAL(named(speaks, peer_name).nl_pid, port + 1, "where the one that speaks speaks to");
    CHECK_EQUAL(named(fresh, own_name).nl_pid, 0, "the port of the one without");
    CHECK(hears(devices, 2) && !hears(devices, 1), "the groups of devices");
    if (all) {
        CHECK(hears(news, HIGH_GROUP), "the group beyond 32 is not heard");
        CHECK_EQUAL(option(asks, NETLINK_EXT_ACK), 1, "NETLINK_EXT_ACK");
        CHECK_EQUAL(option(news, NETLINK_EXT_ACK), 0, "NETLINK_EXT_ACK of another");
        CHECK_EQUAL(option(news, NETLINK_PKTINFO), 1, "NETLINK_PKTINFO");
        CHECK_EQUAL(option(devices, NETLINK_NO_ENOBUFS), 1, "NETLINK_NO_ENOBUFS");
    }
    int kept = 0;
    socklen_t length = sizeof kept;
    CHECK(!getsockopt(devices, SOL_SOCKET, SO_RCVBUF, &kept, &length), "SO_RCVBUF: %s", strerror(errno));
    CHECK_EQUAL(kept, 2 * size, "the room of the one that hears of devices");
    CHECK(!getsockopt(asks, SOL_SOCKET, SO_TYPE, &kept, &length) && kept == (all ? SOCK_DGRAM : SOCK_RAW), "the kind is %d", kept);
    CHECK_EQUAL(fcntl(asks, F_GETFD), FD_CLOEXEC, "close-on-exec");
    CHECK_EQUAL(fcntl(devices, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "non-blocking");
    char byte;
    CHECK(recv(devices, &byte, 1, 0) < 0 && errno == EAGAIN, "something waits");

    CHECK(change_address(asks, RTM_NEWADDR), "the kernel does not answer");
    CHECK(comes(news, RTM_NEWADDR), "no news of the new address");
    CHECK(change_address(asks, RTM_DELADDR) && comes(news, RTM_DELADDR), "no news of its end");
    struct nlmsghdr word = {.nlmsg_len = sizeof word, .nlmsg_type = NLMSG_MIN_TYPE + 0x1000};
    CHECK(send(speaks, &word, sizeof word, 0) == sizeof word && comes(news, NLMSG_MIN_TYPE + 0x1000), "the one that speaks is not heard: %s", strerror(errno));
    CHECK(change_address(fresh, RTM_NEWADDR) && change_address(fresh, RTM_DELADDR), "the one without a port gets no answer");
    verdict();
}
