/* POSIX shared memory and semaphores: files of /dev/shm that nobody but the tree has. One is mapped by parent and child and
 * closed, one is open with a hole in it, one is a semaphore that the child waits for. */
#include <semaphore.h>

#include "subject.h"

static char names[3][64];

static pid_t start_child(struct conversation *shared, sem_t *door) {
    pid_t child = fork();
    MUST(child >= 0);
    if (child) return child;
    while (sem_wait(door)) {}
    while (!shared->question) sleep_ns(MS);
    shared->answer = scramble(shared->question);
    _exit(differs(shared->pattern, sizeof shared->pattern, 4) < 0 ? 19 : 1);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    for (int i = 0; i < 3; i++) snprintf(names[i], sizeof names[i], "/qmig-posix-%d-%d", i, getpid());
    int file = shm_open(names[0], O_RDWR | O_CREAT | O_EXCL, 0640);
    MUST(file >= 0 && !ftruncate(file, sizeof(struct conversation)));
    struct conversation *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    MUST(shared != MAP_FAILED && !close(file));
    fill(shared->pattern, sizeof shared->pattern, 3);
    int sparse = shm_open(names[1], O_RDWR | O_CREAT | O_EXCL, 0600);
    MUST(sparse >= 0 && !ftruncate(sparse, 200 * (off_t)PAGE) && pwrite(sparse, "far", 3, 150 * (off_t)PAGE) == 3);
    MUST(lseek(sparse, 77, SEEK_SET) == 77);
    sem_t *door = sem_open(names[2], O_CREAT | O_EXCL, 0600, 0);
    MUST(door != SEM_FAILED);
    pid_t child = start_child(shared, door);
    fill(shared->pattern, sizeof shared->pattern, 4);
    ready();
    wait_for_question();

    if (sabotage) shared->pattern[5] ^= 1, (void)!ftruncate(sparse, 100);
    CHECK(!sem_post(door), "sem_post: %s", strerror(errno));
    shared->question = 4242;
    CHECK(EVENTUALLY(shared->answer == scramble(4242)), "the child does not answer");
    check_exit(child, 19, "the child");
    char bytes[4] = "";
    struct stat is;
    CHECK(pread(sparse, bytes, 3, 150 * (off_t)PAGE) == 3 && !strcmp(bytes, "far"), "what was far in the file: %s", bytes);
    CHECK(!fstat(sparse, &is) && is.st_size == 200 * (off_t)PAGE && is.st_blocks * 512 < 20 * (off_t)PAGE, "the sparse file has %ld bytes in %ld blocks",
          (long)is.st_size, (long)is.st_blocks);
    CHECK_EQUAL(lseek(sparse, 0, SEEK_CUR), 77, "the offset of the sparse file");
    /* Who opens it by its name gets the same. */
    int again = shm_open(names[0], O_RDWR, 0);
    CHECK(again >= 0 && !fstat(again, &is) && (is.st_mode & 0777) == 0640, "by its name: %s", strerror(errno));
    struct conversation *other = again < 0 ? MAP_FAILED : mmap(NULL, sizeof *other, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
    CHECK(other != MAP_FAILED && other->answer == scramble(4242), "by its name it is another");
    for (int i = 0; i < 3; i++) {
        char path[100];
        snprintf(path, sizeof path, "/dev/shm/%s%s", i == 2 ? "sem." : "", names[i] + 1);
        CHECK(!unlink(path), "%s: %s", path, strerror(errno));
    }
    verdict();
}
