/* Packet sockets (packet(7)): what they hear, where, in which groups; and filters on sockets of every kind.
 * Over the loopback device, which every host has; groups on the link, whose number differs. */
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "subject.h"

#define ETHERTYPE 0x88b5 /* for local experiments, IEEE 802 */
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

static void begins_with(uint8_t byte, uint32_t at, struct sock_filter *into) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, at),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, byte, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    memcpy(into, code, sizeof code);
}
#define LENGTH 4

/* Only what begins with `byte`, counted from `at`, is let in. */
static void let_in(int fd, uint8_t byte, uint32_t at) {
    struct sock_filter code[LENGTH];
    begins_with(byte, at, code);
    struct sock_fprog program = {.len = LENGTH, .filter = code};
    MUST(!setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
}

static void check_filter(int fd, uint8_t byte, uint32_t at, const char *what) {
    struct sock_filter code[LENGTH], now[64] = {0};
    begins_with(byte, at, code);
    socklen_t count = COUNT(now);
    CHECK(!getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, now, &count), "%s: no filter: %s", what, strerror(errno));
    CHECK(count == LENGTH && !memcmp(code, now, sizeof code), "%s: another filter, of %u instructions", what, count);
}

static int open_packets(int kind, uint16_t protocol, const char *device) {
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol)};
    to.sll_ifindex = device ? (int)if_nametoindex(device) : 0;
    int fd = socket(AF_PACKET, kind | SOCK_NONBLOCK, 0);
    MUST(fd >= 0 && (!protocol || !bind(fd, (struct sockaddr *)&to, sizeof to)));
    return fd;
}

static void set(int fd, int name, int value) { MUST(!setsockopt(fd, SOL_PACKET, name, &value, sizeof value)); }

static int number_of(int fd, int level, int name) {
    int value = 0xdeadbeef;
    socklen_t size = sizeof value;
    return getsockopt(fd, level, name, &value, &size) ? -errno : value;
}

static void join(int fd, const char *device, int type, const char *address, int length) {
    struct packet_mreq group = {.mr_ifindex = (int)if_nametoindex(device), .mr_type = (uint16_t)type, .mr_alen = (uint16_t)length};
    memcpy(group.mr_address, address, (size_t)length);
    MUST(!setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &group, sizeof group));
}

static void check_bound(int fd, uint16_t protocol, const char *device, const char *what) {
    struct sockaddr_ll own = {0};
    socklen_t size = sizeof own;
    CHECK(!getsockname(fd, (struct sockaddr *)&own, &size), "%s: no address: %s", what, strerror(errno));
    CHECK_EQUAL(ntohs(own.sll_protocol), protocol, "the protocol it hears");
    CHECK_EQUAL((unsigned)own.sll_ifindex, device ? if_nametoindex(device) : 0, "its interface");
}

/* How many want to hear everything on a device: IFLA_PROMISCUITY. */
static int promiscuity(const char *device) {
    struct {
        struct nlmsghdr head;
        struct ifinfomsg body;
    } ask = {
        .head = {.nlmsg_len = sizeof ask, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST},
        .body = {.ifi_index = (int)if_nametoindex(device)},
    };
    static union {
        struct nlmsghdr head;
        char bytes[8192];
    } answer;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), count = -1;
    ssize_t got = fd < 0 || send(fd, &ask, sizeof ask, 0) < 0 ? -1 : recv(fd, &answer, sizeof answer, 0);
    if (got > 0 && answer.head.nlmsg_type == RTM_NEWLINK) {
        struct rtattr *attribute = IFLA_RTA(NLMSG_DATA(&answer.head));
        int left = (int)IFLA_PAYLOAD(&answer.head);
        for (; RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left))
            if (attribute->rta_type == IFLA_PROMISCUITY) memcpy(&count, RTA_DATA(attribute), sizeof count);
    }
    close(fd);
    return count;
}

static bool hears_group(const char *device, const char *address) {
    static char text[16384];
    char name[32], hex[64];
    unsigned index, users, global;
    if (slurp("/proc/self/net/dev_mcast", text, sizeof text) <= 0) return false;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        if (sscanf(line, "%u %31s %u %u %63s", &index, name, &users, &global, hex) == 5 && !strcmp(name, device) && !strcmp(hex, address)) return true;
    return false;
}

static void send_frame(int fd, const char *text) {
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE), .sll_ifindex = (int)if_nametoindex("lo"), .sll_halen = 6};
    ssize_t length = (ssize_t)strlen(text);
    CHECK(sendto(fd, text, (size_t)length, 0, (struct sockaddr *)&to, sizeof to) == length, "nothing is sent: %s", strerror(errno));
}

/* Reads one packet, at `head` of which the text is. */
static bool gets(int fd, size_t head, const char *text) {
    char bytes[2000];
    ssize_t got = 0;
    if (!EVENTUALLY((got = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) >= 0)) return false;
    return (size_t)got == head + strlen(text) && !memcmp(bytes + head, text, strlen(text));
}

static void drain(int fd) {
    char byte;
    while (recv(fd, &byte, 1, MSG_DONTWAIT) >= 0) {}
}

static bool has_nothing(int fd) {
    char byte;
    return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    const char *link = if_nametoindex("eth0") ? "eth0" : "lo", group[6] = {1, 0, 0x5e, 0x77, 0x77, 0x77};
    int on = 1;
    int hears = open_packets(SOCK_RAW, ETHERTYPE, "lo"), bare = open_packets(SOCK_DGRAM, 0, NULL);
    int linked = open_packets(SOCK_DGRAM, ETHERTYPE + 1, link), first = open_packets(SOCK_DGRAM, ETHERTYPE, "lo");
    int second = open_packets(SOCK_DGRAM, ETHERTYPE, "lo");
    let_in(hears, 'y', 14);
    MUST(!setsockopt(hears, SOL_SOCKET, SO_LOCK_FILTER, &on, sizeof on));
    set(hears, PACKET_VERSION, TPACKET_V2), set(hears, PACKET_AUXDATA, 1), set(hears, PACKET_RESERVE, 64), set(hears, PACKET_IGNORE_OUTGOING, 1);
    set(linked, PACKET_ORIGDEV, 1);
    join(linked, link, PACKET_MR_PROMISC, "", 0), join(linked, link, PACKET_MR_MULTICAST, group, 6);
    join(linked, link, PACKET_MR_PROMISC, "", 0); /* counted twice */
    int together = getpid() % 60000 | PACKET_FANOUT_LB << 16;
    set(first, PACKET_FANOUT, together), set(second, PACKET_FANOUT, together);

    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof own;
    int udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0), unix_ends[2];
    MUST(udp >= 0 && !bind(udp, (struct sockaddr *)&own, sizeof own) && !getsockname(udp, (struct sockaddr *)&own, &size));
    MUST(!connect(udp, (struct sockaddr *)&own, sizeof own) && tcp >= 0 && !listen(tcp, 3));
    MUST(!socketpair(AF_UNIX, SOCK_DGRAM, 0, unix_ends) && send(unix_ends[0], "a before", 8, 0) == 8);
    let_in(udp, 'y', 8), let_in(tcp, 'y', 0), let_in(unix_ends[1], 'y', 0);
    MUST(send(udp, "y waits", 7, 0) == 7);
    MUST(promiscuity(link) >= 1 && hears_group(link, "01005e777777"));
    ready();
    wait_for_question();

    if (sabotage) on = 0, setsockopt(hears, SOL_PACKET, PACKET_AUXDATA, &on, sizeof on);
    check_bound(hears, ETHERTYPE, "lo", "the one that hears");
    check_bound(linked, ETHERTYPE + 1, link, "the one on the link");
    check_bound(bare, 0, NULL, "the one that is not bound");
    CHECK_EQUAL(number_of(hears, SOL_SOCKET, SO_TYPE), SOCK_RAW, "its kind");
    CHECK_EQUAL(number_of(hears, SOL_PACKET, PACKET_VERSION), TPACKET_V2, "PACKET_VERSION");
    CHECK_EQUAL(number_of(hears, SOL_PACKET, PACKET_AUXDATA), 1, "PACKET_AUXDATA");
    CHECK_EQUAL(number_of(hears, SOL_PACKET, PACKET_RESERVE), 64, "PACKET_RESERVE");
    CHECK_EQUAL(number_of(hears, SOL_PACKET, PACKET_IGNORE_OUTGOING), 1, "PACKET_IGNORE_OUTGOING");
    CHECK_EQUAL(number_of(hears, SOL_PACKET, PACKET_ORIGDEV), 0, "PACKET_ORIGDEV");
    CHECK_EQUAL(number_of(linked, SOL_PACKET, PACKET_ORIGDEV), 1, "PACKET_ORIGDEV of the one on the link");
    CHECK_EQUAL(number_of(hears, SOL_SOCKET, SO_LOCK_FILTER), 1, "SO_LOCK_FILTER");
    CHECK_EQUAL(number_of(first, SOL_PACKET, PACKET_FANOUT), together, "PACKET_FANOUT");
    CHECK_EQUAL(number_of(second, SOL_PACKET, PACKET_FANOUT), together, "PACKET_FANOUT of the other");
    CHECK(setsockopt(hears, SOL_SOCKET, SO_DETACH_FILTER, &on, sizeof on) < 0 && errno == EPERM, "a locked filter can be taken off");
    CHECK_EQUAL(fcntl(hears, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "non-blocking");
    check_filter(hears, 'y', 14, "packets"), check_filter(udp, 'y', 8, "UDP");
    check_filter(tcp, 'y', 0, "TCP"), check_filter(unix_ends[1], 'y', 0, "unix");

    CHECK(hears_group(link, "01005e777777"), "the group is not heard");
    int before = promiscuity(link), after = 0;
    close(linked);
    CHECK(EVENTUALLY((after = promiscuity(link)) == before - 1), "not promiscuous: %d, now %d", before, after);
    CHECK(EVENTUALLY(!hears_group(link, "01005e777777")), "the group is still heard");

    drain(first), drain(second), drain(hears);
    send_frame(bare, "no"), send_frame(bare, "yes");
    CHECK(gets(hears, 14, "yes") && has_nothing(hears), "the filter lets other frames in");
    char byte;
    CHECK(EVENTUALLY(recv(first, &byte, 1, 0) == 1) && EVENTUALLY(recv(second, &byte, 1, 0) == 1), "the two of a group do not take turns");
    CHECK(has_nothing(first) && has_nothing(second), "the two of a group hear the same");

    CHECK(gets(udp, 0, "y waits"), "what waited in the UDP socket is gone");
    CHECK(send(udp, "no", 2, 0) == 2 && send(udp, "yes", 3, 0) == 3 && gets(udp, 0, "yes"), "the filter of UDP differs");
    CHECK(gets(unix_ends[1], 0, "a before"), "what waited in the unix socket before its filter is gone");
    send(unix_ends[0], "no", 2, 0);
    CHECK(send(unix_ends[0], "yes", 3, 0) == 3 && gets(unix_ends[1], 0, "yes"), "the filter of the unix socket differs");
    verdict();
}
