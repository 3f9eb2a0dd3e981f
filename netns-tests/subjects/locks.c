/* Locks on files: of fcntl(2) F_SETLK and F_OFD_SETLK and of flock(2), each kind for reading and for
 * writing, on bytes and to the end of the file, through dup'ed and inherited descriptors, on a file
 * without a name, and a child that waits for one. */
#include <sys/file.h>

#include "subject.h"

#define MANY 30

static int file(const char *name, char **path) {
    *path = path_in(shared_dir, name);
    int fd = open(*path, O_RDWR | O_CREAT, 0600);
    MUST(fd >= 0 && !ftruncate(fd, 1000));
    return fd;
}

static struct flock range(int type, off_t start, off_t len) {
    return (struct flock){.l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
}

static void take(int fd, int command, int type, off_t start, off_t len) {
    struct flock lock = range(type, start, len);
    MUST(!fcntl(fd, command, &lock));
}

/* Whoever asks has another description: F_OFD_GETLK tells it of process's locks too. */
static void expect(int probe, int type, off_t start, off_t len, short wanted, off_t first, off_t count, pid_t pid,
                   const char *what) {
    struct flock lock = range(type, start, len);
    if (fcntl(probe, F_OFD_GETLK, &lock)) {
        complain("%s: F_OFD_GETLK: %s", what, strerror(errno));
        return;
    }
    CHECK(lock.l_type == wanted, "%s: type %d, was %d", what, lock.l_type, wanted);
    if (wanted == F_UNLCK || lock.l_type != wanted) return;
    CHECK(lock.l_start == first && lock.l_len == count, "%s: %lld+%lld, was %lld+%lld", what,
          (long long)lock.l_start, (long long)lock.l_len, (long long)first, (long long)count);
    CHECK(lock.l_pid == pid, "%s: of %d, was of %d", what, lock.l_pid, pid);
}

static void expect_flock(int probe, int operation, bool free, const char *what) {
    int got = flock(probe, operation | LOCK_NB) ? errno : 0;
    CHECK(got == (free ? 0 : EWOULDBLOCK), "%s: %s", what, strerror(got));
    if (!got) flock(probe, LOCK_UN);
}

static int again(int fd) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int other = open(link, O_RDWR | O_CLOEXEC);
    if (other < 0) complain("open %s: %s", link, strerror(errno));
    return other;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    char *posix_path, *shared_path, *alone_path, *ofd_path, *gone_path, *wait_path;
    int posix = file("posix", &posix_path), shared = file("shared", &shared_path);
    int alone = file("alone", &alone_path), ofd = file("ofd", &ofd_path), gone = file("gone", &gone_path);
    int waited = file("waited", &wait_path);
    MUST(!unlink(gone_path));
    int twin = dup(posix), alone_twin = dup(alone), go[2];
    MUST(twin >= 0 && alone_twin >= 0 && !pipe(go));

    take(posix, F_SETLK, F_WRLCK, 10, 20);
    take(twin, F_SETLK, F_RDLCK, 100, 1);
    take(posix, F_SETLK, F_WRLCK, 500, 0);
    for (int i = 0; i < MANY; i++) take(posix, F_SETLK, F_RDLCK, 200 + 2 * i, 1);
    MUST(!flock(shared, LOCK_SH) && !flock(alone, LOCK_EX));
    take(ofd, F_OFD_SETLK, F_WRLCK, 0, 7);
    take(ofd, F_OFD_SETLK, F_RDLCK, 50, 0);
    take(gone, F_SETLK, F_WRLCK, 3, 4);
    MUST(!flock(gone, LOCK_EX));
    take(waited, F_SETLK, F_WRLCK, 0, 1);

    /* Inherits the descriptions, with the locks of flock and OFD; has a lock of its own; waits for ours. */
    pid_t child = fork();
    MUST(child >= 0);
    if (!child) {
        char byte;
        take(posix, F_SETLK, F_WRLCK, 40, 5);
        MUST(write(go[1], "k", 1) == 1);
        struct flock lock = range(F_WRLCK, 0, 1);
        int got = fcntl(waited, F_SETLKW, &lock);
        close(go[1]);
        while (read(go[0], &byte, 1) > 0) {}
        _exit(got ? 2 : 0);
    }
    char byte;
    MUST(read(go[0], &byte, 1) == 1 && EVENTUALLY(state_of(child, child) == 'S'));

    ready();
    wait_for_question();
    if (sabotage) flock(alone, LOCK_UN);

    /* Every probe is another description, asked by another process: closing it takes no lock of ours. */
    int lines[2];
    pid_t me = getpid();
    MUST(!pipe(lines));
    pid_t prober = fork();
    MUST(prober >= 0);
    if (!prober) {
        int p = again(posix), o = again(ofd), g = again(gone), s = again(shared), a = again(alone), w = again(waited);
        expect(p, F_RDLCK, 0, 10, F_UNLCK, 0, 0, 0, "before the first");
        expect(p, F_RDLCK, 0, 40, F_WRLCK, 10, 20, me, "the first");
        expect(p, F_WRLCK, 30, 10, F_UNLCK, 0, 0, 0, "between");
        expect(p, F_RDLCK, 40, 5, F_WRLCK, 40, 5, child, "the child's");
        expect(p, F_WRLCK, 45, 56, F_RDLCK, 100, 1, me, "for reading");
        expect(p, F_RDLCK, 100, 1, F_UNLCK, 0, 0, 0, "two readers");
        for (int i = 0; i < MANY; i++) {
            expect(p, F_WRLCK, 200 + 2 * i, 2, F_RDLCK, 200 + 2 * i, 1, me, "one of many");
            expect(p, F_WRLCK, 201 + 2 * i, 1, F_UNLCK, 0, 0, 0, "between many");
        }
        expect(p, F_RDLCK, 1 << 20, 1, F_WRLCK, 500, 0, me, "to the end");
        expect(o, F_RDLCK, 0, 50, F_WRLCK, 0, 7, -1, "OFD, for writing");
        expect(o, F_WRLCK, 7, 43, F_UNLCK, 0, 0, 0, "OFD, between");
        expect(o, F_WRLCK, 1 << 20, 1, F_RDLCK, 50, 0, -1, "OFD, to the end");
        expect(g, F_RDLCK, 0, 10, F_WRLCK, 3, 4, me, "of a file without a name");
        expect(w, F_WRLCK, 0, 1, F_WRLCK, 0, 1, me, "waited for");
        expect_flock(s, LOCK_SH, true, "flock, two readers");
        expect_flock(s, LOCK_EX, false, "flock, shared");
        expect_flock(a, LOCK_SH, false, "flock, exclusive");
        expect_flock(g, LOCK_SH, false, "flock of a file without a name");
        MUST(write(lines[1], complaints, strlen(complaints)) >= 0);
        _exit(complaint_count ? 1 : 0);
    }
    close(lines[1]);
    char said[sizeof complaints] = "";
    for (size_t used = 0;;) {
        ssize_t n = read(lines[0], said + used, sizeof said - 1 - used);
        if (n <= 0) break;
        used += (size_t)n;
    }
    if (*said) complain("%s", said);
    check_exit(prober, 0, "the prober");

    /* One description: whoever lets go, does so for all that have it. */
    CHECK(!flock(alone_twin, LOCK_UN), "cannot let go");
    int fresh = again(alone);
    expect_flock(fresh, LOCK_EX, true, "flock, let go through the twin");
    /* Let go, the lock goes to who waits. */
    CHECK(state_of(child, child) == 'S', "the child does not wait");
    struct flock lock = range(F_UNLCK, 0, 1);
    CHECK(!fcntl(waited, F_SETLK, &lock), "cannot let go of what is waited for");
    close(go[1]);
    check_exit(child, 0, "the child");
    verdict();
}
