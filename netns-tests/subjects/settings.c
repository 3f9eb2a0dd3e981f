/* Numbers that a process and its threads have set for themselves: membarrier registrations, locking of memory to come,
 * no writable code, huge pages, core dumps, memory policy, the time stamp counter, failing memory, personality. */
#include <linux/membarrier.h>
#include <linux/mempolicy.h>
#include <sys/personality.h>

#include "subject.h"

#define PAGE 4096ul
/* linux/prctl.h, where the distribution's is older. */
#define MDWE_SET 65
#define MDWE_GET 66
#define MERGE_SET 67
#define MERGE_GET 68

enum { MERGE, MDWE, THP, BARRIERS, DUMP, PERSONA, TSC, MCE, POLICY, NODES, SLICE, GROUP, NUMBERS };
static const char *names[NUMBERS] = {"PR_SET_MEMORY_MERGE", "PR_SET_MDWE", "PR_SET_THP_DISABLE", "membarrier", "coredump_filter", "personality",
                                     "PR_SET_TSC", "PR_MCE_KILL", "set_mempolicy", "its nodes", "the slice", "the autogroup"};

/* As of Linux 5.3. */
struct attributes { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period; uint32_t least, most; };

static long number_in(const char *path, const char *after, int base) {
    char text[200] = "";
    if (slurp(path, text, sizeof text) <= 0) return -1;
    char *at = after ? strstr(text, after) : text;
    return at ? strtol(at + (after ? strlen(after) : 0), NULL, base) : -1;
}

static void look(long *n) {
    int value = 0, mode = 0;
    unsigned long nodes[16] = {0};
    struct attributes attributes = {0};
    n[MERGE] = prctl(MERGE_GET, 0, 0, 0, 0);
    n[MDWE] = prctl(MDWE_GET, 0, 0, 0, 0);
    n[THP] = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
    n[BARRIERS] = syscall(SYS_membarrier, 1 << 9, 0, 0);
    n[DUMP] = number_in("/proc/self/coredump_filter", NULL, 16);
    n[GROUP] = number_in("/proc/self/autogroup", " nice ", 10);
    n[PERSONA] = personality(0xffffffff);
    n[TSC] = prctl(PR_GET_TSC, &value) ? -1 : value;
    n[MCE] = prctl(PR_MCE_KILL_GET, 0, 0, 0, 0);
    n[POLICY] = syscall(SYS_get_mempolicy, &mode, nodes, 8 * sizeof nodes, 0, 0) ? -1 : mode;
    n[NODES] = (long)nodes[0];
    n[SLICE] = syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) ? -1 : (long)attributes.runtime;
}

static void compare(const long *was, const char *whose) {
    long is[NUMBERS];
    look(is);
    for (int i = 0; i < NUMBERS; i++) CHECK(is[i] == was[i], "%s of %s is %ld, was %ld", names[i], whose, is[i], was[i]);
}

static _Atomic int asked;
static long plain[NUMBERS];

/* The other thread has set nothing for itself but what a child of the leader inherits. */
static void *other(void *unused) {
    (void)unused;
    look(plain);
    asked = 1;
    while (asked != 2) sleep_ns(MS);
    compare(plain, "the other thread");
    asked = 3;
    return NULL;
}

static long locked(void) {
    char text[8192];
    MUST(slurp("/proc/self/status", text, sizeof text) > 0);
    return strtol(strstr(text, "VmLck:") + 6, NULL, 10);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    /* A kernel that does not know one of them has nothing to lose. */
    (void)!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    (void)!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0);
    prctl(MERGE_SET, 1, 0, 0, 0);
    if (prctl(PR_SET_THP_DISABLE, 1, 2, 0, 0)) prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    int file = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);
    MUST(file >= 0 && write(file, "0x3b", 4) == 4 && !close(file));
    file = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
    if (file >= 0) (void)!write(file, "4", 1), close(file);
    MUST(personality(ADDR_COMPAT_LAYOUT | STICKY_TIMEOUTS) >= 0);
    char *onfault = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(onfault != MAP_FAILED && !syscall(SYS_mlock2, onfault, 16 * PAGE, 1));
    onfault[5 * PAGE] = 'x';
    MUST(!mlockall(MCL_FUTURE));
    pthread_t thread;
    MUST(!pthread_create(&thread, NULL, other, NULL) && EVENTUALLY(asked == 1));
    unsigned long first = 1;
    (void)!syscall(SYS_set_mempolicy, MPOL_BIND, &first, 64);
    (void)!prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
    struct attributes slow = {.size = 48, .runtime = 7000000};
    (void)!syscall(SYS_sched_setattr, 0, &slow, 0);
    prctl(MDWE_SET, 1, 0, 0, 0);
    /* Also of those that belong to the whole process. */
    long before[NUMBERS];
    look(before);
    plain[MDWE] = before[MDWE], plain[GROUP] = before[GROUP];
    ready();
    wait_for_question();

    if (sabotage) prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 0, 0, 0), munlockall();
    compare(before, "the leader");
    asked = 2;
    CHECK(EVENTUALLY(asked == 3), "the other thread is gone");
    if (before[BARRIERS] > 0) CHECK(!syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), "membarrier: %s", strerror(errno));
    if (before[MDWE] > 0)
        CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED, "code may be written");
    unsigned char there[16];
    MUST(!mincore(onfault, 16 * PAGE, there));
    int count = 0;
    for (int i = 0; i < 16; i++) count += there[i] & 1;
    CHECK(onfault[5 * PAGE] == 'x' && count == 1, "%d pages of memory that is locked when touched", count);
    long was = locked();
    char *fresh = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(fresh != MAP_FAILED && locked() == was + 32, "new memory is not locked: %ld KiB, were %ld", locked(), was);
    verdict();
}
