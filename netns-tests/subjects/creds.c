/* Who the process is and what it may do: ids, groups, capabilities, limits, priorities, flags. */
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <grp.h>

#include "subject.h"

/* Lines of /proc/self/status that must stay. */
static const char *kept[] = {"Name", "Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd",
                             "CapAmb", "NoNewPrivs", "Cpus_allowed"};
static char status[2][8192], limits[2][4096];

static void line_of(const char *text, const char *name, char *line, size_t room) {
    char key[64];
    snprintf(key, sizeof key, "\n%s:", name);
    const char *at = !strncmp(text, key + 1, strlen(key + 1)) ? text : strstr(text, key);
    if (at && *at == '\n') at++;
    size_t length = at ? strcspn(at, "\n") : 0;
    snprintf(line, room, "%.*s", (int)length, at ? at : "");
}

static void set_capabilities(uint32_t effective, uint32_t permitted, uint32_t inheritable) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{effective, permitted, inheritable}, {0, 0, 0}};
    MUST(!syscall(SYS_capset, &header, data));
}

struct numbers { long nice, policy, dumpable, slack, bits, keep, reaper, deathsig, persona, ioprio, oom, thp; };

static struct numbers look(void) {
    struct numbers n = {0};
    char text[32] = "";
    int value = 0;
    errno = 0;
    n.nice = getpriority(PRIO_PROCESS, 0);
    n.policy = sched_getscheduler(0);
    n.dumpable = prctl(PR_GET_DUMPABLE);
    n.slack = prctl(PR_GET_TIMERSLACK);
    n.bits = prctl(PR_GET_SECUREBITS);
    n.keep = prctl(PR_GET_KEEPCAPS);
    if (!prctl(PR_GET_CHILD_SUBREAPER, &value)) n.reaper = value;
    if (!prctl(PR_GET_PDEATHSIG, &value)) n.deathsig = value;
    n.persona = personality(0xffffffff);
    n.ioprio = syscall(SYS_ioprio_get, 1, 0);
    if (slurp("/proc/self/oom_score_adj", text, sizeof text) > 0) n.oom = strtol(text, NULL, 10);
    n.thp = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
    return n;
}

static void check_new_file(void) {
    char *path = path_in(scratch_dir, "umask");
    int fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0666);
    struct stat is;
    CHECK(fd >= 0 && !fstat(fd, &is) && (is.st_mode & 0777) == 0640, "a new file has mode %o", fd >= 0 ? is.st_mode & 0777 : 0);
    CHECK(fd >= 0 && is.st_uid == 1002 && is.st_gid == 1012, "a new file belongs to %d:%d", (int)is.st_uid, (int)is.st_gid);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    struct sched_param normal = {0};
    MUST(!sched_setaffinity(0, sizeof first, &first) && !sched_setscheduler(0, SCHED_BATCH, &normal) && !setpriority(PRIO_PROCESS, 0, 5));
    int oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    MUST(oom >= 0 && write(oom, "300", 3) == 3 && !close(oom));
    struct rlimit files = {300, 500}, core = {0, 0}, stack = {4 << 20, 64 << 20}, cpu = {RLIM_INFINITY, RLIM_INFINITY}, processes = {900, 1000};
    MUST(!setrlimit(RLIMIT_NOFILE, &files) && !setrlimit(RLIMIT_CORE, &core) && !setrlimit(RLIMIT_STACK, &stack));
    MUST(!setrlimit(RLIMIT_CPU, &cpu) && !setrlimit(RLIMIT_NPROC, &processes));
    MUST(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6) == 0 && personality(ADDR_NO_RANDOMIZE) >= 0);
    MUST(!prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE) && !prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT));
    MUST(!prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP_LOCKED) && !prctl(PR_SET_KEEPCAPS, 1));
    gid_t groups[] = {5, 77, 4242};
    MUST(!setgroups(3, groups) && !setresgid(1011, 1012, 1013) && !setresuid(1001, 1002, 1003));
    uint32_t bind = 1u << CAP_NET_BIND_SERVICE, kill_ = 1u << CAP_KILL, chown_ = 1u << CAP_CHOWN;
    set_capabilities(bind | kill_, bind | kill_ | chown_, bind);
    MUST(!prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
    MUST(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_TIMERSLACK, 123456) && !prctl(PR_SET_CHILD_SUBREAPER, 1));
    MUST(!prctl(PR_SET_NAME, "odd) name \n"));
    umask(0027);
    struct numbers before = look();
    MUST(slurp("/proc/self/status", status[0], sizeof status[0]) > 0 && slurp("/proc/self/limits", limits[0], sizeof limits[0]) > 0);
    ready();
    wait_for_question();

    if (sabotage) prctl(PR_SET_TIMERSLACK, 1), setpriority(PRIO_PROCESS, 0, 9);
    MUST(slurp("/proc/self/status", status[1], sizeof status[1]) > 0 && slurp("/proc/self/limits", limits[1], sizeof limits[1]) > 0);
    for (size_t i = 0; i < COUNT(kept); i++) {
        char was[256], is[256];
        line_of(status[0], kept[i], was, sizeof was);
        line_of(status[1], kept[i], is, sizeof is);
        CHECK(*was && !strcmp(was, is), "%s, was %s", is, was);
    }
    CHECK(!strcmp(limits[0], limits[1]), "the limits have changed");
    struct rlimit is;
    CHECK(!getrlimit(RLIMIT_NOFILE, &is) && is.rlim_cur == 300 && is.rlim_max == 500, "RLIMIT_NOFILE is %ld of %ld", (long)is.rlim_cur, (long)is.rlim_max);
    struct numbers after = look();
#define SAME(field) CHECK_EQUAL(after.field, before.field, #field)
    SAME(nice);
    SAME(policy);
    SAME(dumpable);
    SAME(slack);
    SAME(bits);
    SAME(keep);
    SAME(reaper);
    SAME(deathsig);
    SAME(persona);
    SAME(ioprio);
    SAME(oom);
    SAME(thp);
    CHECK(setuid(0) < 0 && errno == EPERM, "root is back");
    check_new_file();
    verdict();
}
