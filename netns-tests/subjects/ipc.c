/* Semaphores and message queues of System V: numbers, keys, owners, values, messages in order, and those
 * that wait for one. (Nothing is undone: SEM_UNDO cannot be carried.) */
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

#include "subject.h"

union semun {
    int val;
    struct semid_ds *ds;
    unsigned short *values;
};
struct message {
    long kind;
    char text[3000];
};

enum { GATE, COUNT_OF, FULL, SET };

static bool change(int set, int number, int by, int flags) {
    struct sembuf one = {.sem_num = (unsigned short)number, .sem_op = (short)by, .sem_flg = (short)flags};
    return !semop(set, &one, 1);
}

static bool put(int queue, long kind, size_t size, uint64_t seed) {
    struct message message = {.kind = kind};
    fill(message.text, size, seed);
    return !msgsnd(queue, &message, size, IPC_NOWAIT);
}

static void take(int queue, long asked, long kind, size_t size, uint64_t seed) {
    struct message message;
    ssize_t got = msgrcv(queue, &message, sizeof message.text, asked, IPC_NOWAIT);
    CHECK(got == (ssize_t)size, "the message asked for by %ld has %zd bytes of %zu (%s)", asked, got, size, strerror(errno));
    if (got != (ssize_t)size) return;
    CHECK_EQUAL(message.kind, kind, "the type of a message");
    check_filled(message.text, size, seed, "a message");
}

static bool is_in(pid_t pid, long call) {
    char path[64], text[100] = "";
    snprintf(path, sizeof path, "/proc/%d/syscall", pid);
    FILE *file = fopen(path, "re");
    MUST(file && fgets(text, sizeof text, file));
    fclose(file);
    return atol(text) == call;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    key_t key = 0x72000000 | (getpid() & 0xffff);
    /* Numbers that no new namespace would give out next. */
    for (int i = 0; i < 3; i++) {
        int set = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600), queue = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
        MUST(set >= 0 && queue >= 0 && !semctl(set, 0, IPC_RMID) && !msgctl(queue, IPC_RMID, NULL));
    }
    int set = semget(key, SET, IPC_CREAT | IPC_EXCL | 0640), other = semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
    int full = msgget(key, IPC_CREAT | IPC_EXCL | 0620), empty = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    MUST(set >= 0 && other >= 0 && full >= 0 && empty >= 0);
    unsigned short values[SET] = {[GATE] = 0, [COUNT_OF] = 5, [FULL] = 32767};
    MUST(!semctl(set, 0, SETALL, (union semun){.values = values}) && change(other, 0, 1, 0));
    struct semid_ds owned = {.sem_perm = {.uid = 1234, .gid = 567, .mode = 0640}};
    MUST(!semctl(set, 0, IPC_SET, (union semun){.ds = &owned}));
    struct msqid_ds wide = {.msg_perm = {.uid = 1234, .gid = 567, .mode = 0620}, .msg_qbytes = 12345};
    MUST(!msgctl(full, IPC_SET, &wide));
    MUST(put(full, 7, 1000, 1) && put(full, 3, 0, 2) && put(full, 7, 3000, 3) && put(full, LONG_MAX, 17, 4));

    /* One child waits at the gate, twice; one for a message in a queue that nobody has used yet. */
    pid_t passer = fork();
    MUST(passer >= 0);
    if (!passer) {
        struct timespec hour = {.tv_sec = 3600};
        struct sembuf pass = {.sem_num = GATE, .sem_op = -1};
        if (semop(set, &pass, 1)) _exit(1);
        _exit(semtimedop(set, &pass, 1, &hour) ? 2 : 77);
    }
    pid_t reader = fork();
    MUST(reader >= 0);
    if (!reader) {
        struct message message;
        _exit(msgrcv(empty, &message, sizeof message.text, 9, 0) == 4 ? 78 : 1);
    }
    MUST(EVENTUALLY(semctl(set, GATE, GETNCNT) == 1 && is_in(reader, SYS_msgrcv)));
    ready();
    wait_for_question();

    if (sabotage) take(full, 3, 3, 0, 2);
    CHECK_EQUAL(semget(key, 0, 0), set, "the set by its key");
    CHECK_EQUAL(msgget(key, 0), full, "the queue by its key");
    struct semid_ds of_set = {0};
    CHECK(!semctl(set, 0, IPC_STAT, (union semun){.ds = &of_set}), "the set is gone: %s", strerror(errno));
    CHECK_EQUAL(of_set.sem_perm.uid, 1234, "the owner of the set");
    CHECK_EQUAL(of_set.sem_perm.gid, 567, "the group of the set");
    CHECK_EQUAL(of_set.sem_perm.mode & 0777, 0640, "the mode of the set");
    CHECK_EQUAL(of_set.sem_nsems, SET, "the size of the set");
    memset(values, 0xff, sizeof values);
    CHECK(!semctl(set, 0, GETALL, (union semun){.values = values}), "the values: %s", strerror(errno));
    CHECK_EQUAL(values[GATE], 0, "the gate");
    CHECK_EQUAL(values[COUNT_OF], 5, "the count");
    CHECK_EQUAL(values[FULL], 32767, "the full semaphore");
    CHECK(!change(set, FULL, 1, IPC_NOWAIT) && errno == ERANGE, "the full semaphore can rise");
    CHECK_EQUAL(semctl(other, 0, GETVAL), 1, "the other set's value");

    struct msqid_ds of_queue = {0};
    CHECK(!msgctl(full, IPC_STAT, &of_queue), "the queue is gone: %s", strerror(errno));
    CHECK_EQUAL(of_queue.msg_perm.uid, 1234, "the owner of the queue");
    CHECK_EQUAL(of_queue.msg_perm.gid, 567, "the group of the queue");
    CHECK_EQUAL(of_queue.msg_perm.mode & 0777, 0620, "the mode of the queue");
    CHECK_EQUAL(of_queue.msg_qbytes, 12345, "what the queue takes");
    CHECK_EQUAL(of_queue.msg_qnum, 4, "the number of messages");
    take(full, -6, 3, 0, 2);
    take(full, 0, 7, 1000, 1);
    take(full, LONG_MAX, LONG_MAX, 17, 4);
    take(full, 0, 7, 3000, 3);
    CHECK(!msgctl(empty, IPC_STAT, &of_queue), "the empty queue is gone: %s", strerror(errno));
    CHECK_EQUAL(of_queue.msg_qnum, 0, "messages of the empty queue");

    CHECK(EVENTUALLY(semctl(set, GATE, GETNCNT) == 1), "nobody waits at the gate");
    CHECK(change(set, GATE, 2, 0) && put(empty, 9, 4, 5), "the gate does not open: %s", strerror(errno));
    check_exit(passer, 77, "who waits at the gate");
    check_exit(reader, 78, "who waits for a message");
    CHECK(!semctl(set, 0, IPC_RMID) && !semctl(other, 0, IPC_RMID), "the sets cannot be removed: %s", strerror(errno));
    CHECK(!msgctl(full, IPC_RMID, NULL) && !msgctl(empty, IPC_RMID, NULL), "the queues cannot be removed: %s", strerror(errno));
    verdict();
}
