/* A tree with sessions and process groups, descriptors shared across fork and dup, inherited pipes,
 * and an orphan that its subreaper adopted. Each member tells its own relations when asked. */
#include "subject.h"

enum { FIRST, GRANDCHILD, LONER, LONERS_CHILD, WORKER, ORPHAN, MEMBERS };

struct member { pid_t pid, parent, group, session; char comm[16]; };
static struct member *members; /* shared by all */
static int offset_fd, offset_twin, separate_fd, to_worker[2], from_worker[2];

static void write_down(int which) {
    struct member *m = &members[which];
    snprintf(m->comm, sizeof m->comm, "member-%d", which);
    prctl(PR_SET_NAME, m->comm);
    m->parent = getppid(), m->group = getpgrp(), m->session = getsid(0);
    __atomic_store_n(&m->pid, getpid(), __ATOMIC_SEQ_CST);
}

/* 40 and up: as it was, else a number that names what is not. */
static int compare(int which) {
    struct member *m = &members[which];
    char comm[16] = "";
    if (getpid() != m->pid) return 1;
    if (getppid() != m->parent) return 2;
    if (getpgrp() != m->group) return 3;
    if (getsid(0) != m->session) return 4;
    prctl(PR_GET_NAME, comm);
    if (strcmp(comm, m->comm)) return 5;
    return 40 + which;
}

static void await_question(void) {
    sigset_t question;
    sigemptyset(&question);
    sigaddset(&question, SIGUSR1);
    while (sigwaitinfo(&question, NULL) != SIGUSR1) {}
}

/* A member with at most one child of its own, whose exit it judges too. */
__attribute__((noreturn)) static void live(int which, int child) {
    write_down(which);
    await_question();
    int code = compare(which);
    if (child >= 0) {
        check_exit(members[child].pid, 40 + child, "a grandchild");
        if (complaint_count) code = 6;
    }
    _exit(code);
}

static void work(void) {
    write_down(WORKER);
    char c;
    /* One letter a task, answered on the other pipe. */
    while (read(to_worker[0], &c, 1) == 1) {
        char bytes[4] = "";
        if (c == 'o') { /* read on at the offset that everyone shares */
            if (read(offset_fd, bytes, 4) != 4) bytes[0] = '!';
        } else if (c == 's') {
            if (read(separate_fd, bytes, 4) != 4) bytes[0] = '!';
        } else if (c == 'q') {
            await_question();
            _exit(compare(WORKER));
        }
        if (write(from_worker[1], bytes, 4) != 4) _exit(9);
    }
    _exit(8);
}

static pid_t born(int which) {
    MUST(EVENTUALLY(__atomic_load_n(&members[which].pid, __ATOMIC_SEQ_CST)));
    return members[which].pid;
}

static void ask_worker(char task, const char *wanted) {
    char bytes[4] = "";
    CHECK(write(to_worker[1], &task, 1) == 1 && read(from_worker[0], bytes, 4) == 4, "the worker: %s", strerror(errno));
    CHECK(!memcmp(bytes, wanted, 4), "the worker read %.4s for '%c', wanted %.4s", bytes, task, wanted);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    members = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(members != MAP_FAILED && !prctl(PR_SET_CHILD_SUBREAPER, 1));
    char *path = path_in(shared_dir, "offsets");
    offset_fd = open(path, O_RDWR | O_CREAT, 0600);
    MUST(offset_fd >= 0 && write(offset_fd, "aaaabbbbccccddddeeeeffff", 24) == 24);
    offset_twin = dup(offset_fd);
    MUST(lseek(offset_fd, 4, SEEK_SET) == 4 && !pipe(to_worker) && !pipe(from_worker));
    struct member mine = {getpid(), getppid(), getpgrp(), getsid(0), ""};

    pid_t first = fork();
    MUST(first >= 0);
    if (!first) {
        setpgid(0, 0);
        if (!fork()) live(GRANDCHILD, -1); /* in its parent's group */
        live(FIRST, GRANDCHILD);
    }
    pid_t loner = fork();
    MUST(loner >= 0);
    if (!loner) {
        setsid();
        if (!fork()) { /* a group of its own in that session */
            setpgid(0, 0);
            live(LONERS_CHILD, -1);
        }
        live(LONER, LONERS_CHILD);
    }
    pid_t worker = fork();
    MUST(worker >= 0);
    if (!worker) {
        separate_fd = open(path, O_RDONLY);
        work();
    }
    pid_t passing = fork();
    MUST(passing >= 0);
    if (!passing) {
        pid_t mother = getpid();
        if (!fork()) {
            EVENTUALLY(getppid() != mother);
            live(ORPHAN, -1);
        }
        _exit(0);
    }
    MUST(waitpid(passing, NULL, 0) == passing);
    pid_t orphan = 0;
    for (int i = 0; i < MEMBERS; i++) orphan = born(i);
    MUST(members[ORPHAN].parent == getpid());
    close(to_worker[0]);
    close(from_worker[1]);
    ready();
    wait_for_question();

    if (sabotage) members[LONERS_CHILD].session++;
    CHECK_EQUAL(getpid(), mine.pid, "pid");
    CHECK_EQUAL(getpgrp(), mine.group, "group");
    CHECK_EQUAL(getsid(0), mine.session, "session");
    CHECK_EQUAL(getpgid(first), first, "the first child's group, seen from here");
    CHECK_EQUAL(getsid(loner), loner, "the loner's session, seen from here");
    int reaper = 0;
    CHECK(!prctl(PR_GET_CHILD_SUBREAPER, &reaper) && reaper, "no longer the subreaper");

    /* The worker reads where the others are, we go on where it stopped, by either descriptor. */
    ask_worker('o', "bbbb");
    CHECK_EQUAL(lseek(offset_fd, 0, SEEK_CUR), 8, "the offset shared with a child");
    CHECK_EQUAL(lseek(offset_twin, 4, SEEK_CUR), 12, "the offset shared by dup");
    ask_worker('o', "dddd");
    ask_worker('s', "aaaa");
    CHECK_EQUAL(lseek(offset_fd, 0, SEEK_CUR), 16, "the offset moved by another description");

    MUST(write(to_worker[1], "q", 1) == 1);
    for (int i = 0; i < MEMBERS; i++) CHECK(!kill(members[i].pid, SIGUSR1), "member %d: %s", i, strerror(errno));
    check_exit(first, 40 + FIRST, "the first child");
    check_exit(loner, 40 + LONER, "the loner");
    check_exit(worker, 40 + WORKER, "the worker");
    check_exit(orphan, 40 + ORPHAN, "the orphan");
    char c;
    CHECK_EQUAL(read(from_worker[0], &c, 1), 0, "someone else holds the worker's pipe: end");
    verdict();
}
