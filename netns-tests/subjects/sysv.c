/* System V shared memory: keys, ids, owners and content; shared by parent and child, read-only,
 * a part unmapped, one that goes with its last mapping. And POSIX shared memory beside it. */
#include <sys/ipc.h>
#include <sys/shm.h>

#include "subject.h"

#define SIZE (5 * 4096 + 100)

static int make(key_t key, size_t size, int mode) {
    int id = shmget(key, size, IPC_CREAT | IPC_EXCL | mode);
    MUST(id >= 0);
    return id;
}

static void *attach(int id, int flags) {
    void *at = shmat(id, NULL, flags);
    MUST(at != (void *)-1);
    return at;
}

static struct shmid_ds told(int id, const char *what) {
    struct shmid_ds ds = {0};
    CHECK(!shmctl(id, IPC_STAT, &ds), "%s is gone: %s", what, strerror(errno));
    return ds;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    key_t key = 0x71000000 | (getpid() & 0xffff);
    /* An id that no new namespace would give out next. */
    for (int i = 0; i < 3; i++) MUST(!shmctl(make(IPC_PRIVATE, 4096, 0600), IPC_RMID, NULL));
    int kept = make(key, SIZE, 0640), doomed = make(IPC_PRIVATE, 8192, 0600);
    struct shmid_ds owner = {.shm_perm = {.uid = 1234, .gid = 567, .mode = 0640}};
    MUST(!shmctl(kept, IPC_SET, &owner));
    char *whole = attach(kept, 0), *reader = attach(kept, SHM_RDONLY), *gone = attach(doomed, 0), *part = attach(kept, 0);
    fill(whole, SIZE, 1);
    strcpy(gone, "goes with its last mapping");
    MUST(!shmctl(doomed, IPC_RMID, NULL));

    char *name = NULL;
    const char *folder = strstr(shared_dir, "qmig-lab-");
    MUST(folder && asprintf(&name, "/%.15s-%d", folder, getpid()) > 0); /* /dev/shm is that of all labs */
    int posix = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    MUST(posix >= 0 && !ftruncate(posix, 8192));
    volatile char *common = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, posix, 0);
    MUST(common != MAP_FAILED);
    /* After the last mapping, which would have its place. */
    MUST(!munmap(part + 4096, 8192) && !mprotect(part, 4096, PROT_READ));

    volatile unsigned *bell = (volatile unsigned *)(whole + SIZE - 100);
    bell[0] = bell[1] = 0;
    pid_t child = fork();
    MUST(child >= 0);
    if (!child) {
        /* Answers each ring in both kinds of memory. */
        for (;;) {
            if (bell[0] != bell[1]) common[0] = (char)bell[0], bell[1] = bell[0];
            if (bell[0] == 99) _exit(0);
            sleep_ns(MS / 2);
        }
    }
    bell[0] = 1;
    MUST(EVENTUALLY(bell[1] == 1 && common[0] == 1));
    ready();
    wait_for_question();

    if (sabotage) whole[17] ^= 1;
    check_filled(whole, SIZE - 100 - 8, 1, "the segment");
    CHECK(!memcmp(reader, whole, SIZE - 100), "the read-only mapping shows another segment");
    CHECK(!memcmp(part, whole, 4096) && !memcmp(part + 12288, whole + 12288, 4096), "the parted mapping shows another segment");
    unsigned char in_core;
    CHECK(mincore(part + 4096, 4096, &in_core) < 0 && errno == ENOMEM, "the unmapped part is back");
    part[12288 + 7] ^= 0x5a;
    CHECK(reader[12288 + 7] == part[12288 + 7], "the mappings have parted");
    CHECK(!strcmp(gone, "goes with its last mapping"), "the doomed segment differs");

    struct shmid_ds ds = told(kept, "the segment");
    CHECK_EQUAL(ds.shm_perm.__key, key, "the key");
    CHECK_EQUAL(shmget(key, 0, 0), kept, "the id by its key");
    CHECK_EQUAL(ds.shm_segsz, SIZE, "the size");
    CHECK_EQUAL(ds.shm_perm.uid, 1234, "the owner");
    CHECK_EQUAL(ds.shm_perm.gid, 567, "the group");
    CHECK_EQUAL(ds.shm_perm.mode & 01777, 0640, "the mode");
    CHECK_EQUAL(ds.shm_nattch, 8, "the number of mappings");
    ds = told(doomed, "the doomed segment");
    CHECK_EQUAL(ds.shm_perm.mode & 01000, 01000, "the mark of the doomed segment");
    CHECK(mprotect(reader, 4096, PROT_READ | PROT_WRITE) < 0 && errno == EACCES, "the read-only mapping can be written");

    bell[0] = 2;
    CHECK(EVENTUALLY(bell[1] == 2 && common[0] == 2), "the child does not answer");
    bell[0] = 99;
    check_exit(child, 0, "the child");
    CHECK(!shmdt(gone) && shmctl(doomed, IPC_STAT, &ds) < 0, "the doomed segment outlives its last mapping");
    CHECK(!shmdt(whole) && !shmdt(reader) && !shmctl(kept, IPC_RMID, NULL), "the segment cannot be removed: %s", strerror(errno));
    shm_unlink(name);
    verdict();
}
