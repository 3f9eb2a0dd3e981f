/* fanotify(7): a group's flags and its marks on files, a mount and a file system; what it tells of them. */
#include <sys/fanotify.h>
#include <sys/mount.h>

#include "subject.h"

#ifndef FAN_MARK_EVICTABLE
#define FAN_MARK_EVICTABLE 0x200
#endif

static char before[4][4096];

/* The lines of the kernel about a group, without the numbers that are a host's. */
static void lines_of(int fd, char *into, size_t size) {
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    into[0] = 0;
    if (slurp(path, text, sizeof text) <= 0) return;
    /* Marks are told in no order. */
    char *lines[32];
    int count = 0;
    for (char *line = strtok(text, "\n"); line && count < 32; line = strtok(NULL, "\n")) {
        if (strncmp(line, "fanotify ", 9)) continue;
        int at = count++;
        for (; at > 0 && strcmp(lines[at - 1], line) > 0; at--) lines[at] = lines[at - 1];
        lines[at] = line;
    }
    for (int i = 0; i < count; i++) {
        char *number = strstr(lines[i], "mnt_id:");
        if (!strncmp(lines[i], "fanotify sdev:", 14)) number = strchr(lines[i], ':');
        size_t used = strlen(into);
        snprintf(into + used, size - used, "%s|", number ? strchr(number, ' ') : lines[i]);
    }
}

static void add(int fd, unsigned flags, uint64_t mask, const char *path) {
    MUST(!fanotify_mark(fd, FAN_MARK_ADD | flags, mask, AT_FDCWD, path));
}

/* The mask of the next event, which is about `inode` if that is not zero. */
static uint64_t next_event(int fd, ino_t inode) {
    char bytes[4096];
    struct fanotify_event_metadata event;
    struct stat stat = {0};
    ssize_t got = 0;
    if (!EVENTUALLY((got = read(fd, bytes, sizeof event)) == sizeof event)) return 0;
    memcpy(&event, bytes, sizeof event);
    bool right = event.vers == FANOTIFY_METADATA_VERSION && event.fd >= 0 && !fstat(event.fd, &stat);
    if (event.fd >= 0) close(event.fd);
    return right && (!inode || stat.st_ino == inode) ? event.mask : 0;
}

static void touch(const char *path) {
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    CHECK(fd >= 0 && write(fd, "x", 1) == 1, "cannot write to %s", path);
    close(fd);
}

static void drain(int fd) {
    char bytes[4096];
    ssize_t got;
    while ((got = read(fd, bytes, sizeof bytes)) > 0) {
        struct fanotify_event_metadata event;
        for (size_t at = 0; at + sizeof event <= (size_t)got; at += event.event_len) {
            memcpy(&event, bytes + at, sizeof event);
            if (event.fd >= 0) close(event.fd);
        }
    }
}

int main(int argc, char **argv) {
    begin(argc, argv);
    char *file = path_in(shared_dir, "marked"), *other = path_in(shared_dir, "ignored");
    for (int i = 0; i < 2; i++) {
        int fd = open(i ? other : file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        MUST(fd >= 0);
        close(fd);
    }
    int groups[4] = {
        fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC | FAN_UNLIMITED_MARKS, O_RDONLY | O_LARGEFILE | O_CLOEXEC),
        fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_REPORT_FID | FAN_UNLIMITED_QUEUE, 0),
        fanotify_init(FAN_NONBLOCK, O_RDONLY),
        fanotify_init(FAN_CLOEXEC, O_RDWR),
    };
    for (int i = 0; i < 4; i++) MUST(groups[i] >= 0);
    add(groups[0], 0, FAN_MODIFY | FAN_CLOSE_WRITE, file);
    add(groups[0], FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_ACCESS, other);
    add(groups[1], FAN_MARK_ONLYDIR, FAN_CREATE | FAN_DELETE | FAN_ONDIR | FAN_EVENT_ON_CHILD, shared_dir);
    add(groups[1], FAN_MARK_EVICTABLE, FAN_ATTRIB, file);
    /* Of file systems where little happens. */
    add(groups[2], FAN_MARK_MOUNT, FAN_CLOSE_WRITE, "/dev/shm");
    add(groups[2], FAN_MARK_FILESYSTEM, FAN_MODIFY, "/dev/shm");
    for (int i = 0; i < 4; i++) lines_of(groups[i], before[i], sizeof before[i]);
    MUST(strlen(before[0]) > 100 && strlen(before[1]) > 100);
    ready();
    wait_for_question();

    if (sabotage) fanotify_mark(groups[0], FAN_MARK_REMOVE, FAN_CLOSE_WRITE, AT_FDCWD, file);
    for (int i = 0; i < 4; i++) {
        char now[4096];
        lines_of(groups[i], now, sizeof now);
        CHECK(!strcmp(before[i], now), "group %d was [%s], is [%s]", i, before[i], now);
    }
    CHECK_EQUAL(fcntl(groups[0], F_GETFD), FD_CLOEXEC, "close-on-exec");
    CHECK_EQUAL(fcntl(groups[1], F_GETFD), 0, "close-on-exec of the second");
    CHECK_EQUAL(fcntl(groups[0], F_GETFL) & O_NONBLOCK, O_NONBLOCK, "non-blocking");
    CHECK_EQUAL(fcntl(groups[3], F_GETFL) & O_NONBLOCK, 0, "non-blocking of the last");
    struct stat stat = {0};
    CHECK(!fstatat(AT_FDCWD, file, &stat, 0), "the file is gone");
    drain(groups[0]), drain(groups[2]);
    touch(other), touch(file);
    uint64_t mask = next_event(groups[0], stat.st_ino);
    CHECK(mask & FAN_MODIFY, "events %#llx of the file", (unsigned long long)mask);
    char *shm = path_in("/dev/shm", "touched");
    int fd = open(shm, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, "x", 1) == 1, "cannot write to /dev/shm");
    close(fd);
    mask = next_event(groups[2], 0);
    CHECK(mask & (FAN_MODIFY | FAN_CLOSE_WRITE), "events %#llx of the mount", (unsigned long long)mask);
    unlink(shm);
    verdict();
}
