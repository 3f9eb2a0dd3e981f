/* inotify: numbers, masks and paths of watches, alone and in an epoll instance. And processes held
 * by pidfd: a child, a zombie, itself. */
#include <sys/epoll.h>
#include <sys/inotify.h>

#include "subject.h"

static int pidfd_open_(pid_t pid, unsigned flags) { return (int)syscall(SYS_pidfd_open, pid, flags); }
static int pidfd_signal(int pidfd, int signal) { return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0); }

/* The next event: number and mask must be these, and the name if there is one. */
static void check_event(int fd, int wd, uint32_t mask, const char *name, const char *what) {
    static char bytes[8192];
    static ssize_t have, at;
    if (at >= have) at = 0, have = read(fd, bytes, sizeof bytes);
    if (have <= 0) {
        complain("%s: no event (%s)", what, strerror(errno));
        have = at = 0;
        return;
    }
    struct inotify_event *event = (struct inotify_event *)(bytes + at);
    at += (ssize_t)(sizeof *event + event->len);
    CHECK(event->wd == wd && event->mask == mask, "%s: watch %d mask 0x%x, wanted %d 0x%x", what, event->wd, event->mask, wd, mask);
    CHECK(!name || (event->len && !strcmp(event->name, name)), "%s: name %s", what, event->len ? event->name : "(none)");
}

static void touch(const char *path) {
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    if (fd >= 0) close(fd);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    char *folder = path_in(shared_dir, "folder"), *file = path_in(shared_dir, "a file"), *moved = path_in(shared_dir, "moved"), *inner = NULL;
    MUST(!mkdir(folder, 0700) && asprintf(&inner, "%s/inner", folder) > 0);
    touch(file);
    int inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), idle = inotify_init1(0);
    MUST(inotify >= 0 && idle >= 0);
    int gone = inotify_add_watch(inotify, "/", IN_CREATE);
    int on_folder = inotify_add_watch(inotify, folder, IN_CREATE | IN_DELETE | IN_ONLYDIR);
    int on_file = inotify_add_watch(inotify, file, IN_ATTRIB | IN_ONESHOT);
    MUST(gone > 0 && on_folder > 0 && on_file > 0 && !inotify_rm_watch(inotify, gone));
    char bytes[4096];
    MUST(read(inotify, bytes, sizeof bytes) == sizeof(struct inotify_event)); /* IN_IGNORED */
    MUST(!rename(file, moved));
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event want = {.events = EPOLLIN, .data.u64 = 77};
    MUST(epoll >= 0 && !epoll_ctl(epoll, EPOLL_CTL_ADD, inotify, &want));

    pid_t child = fork();
    MUST(child >= 0);
    if (!child) {
        for (;;) pause();
    }
    pid_t zombie = fork();
    MUST(zombie >= 0);
    if (!zombie) _exit(5);
    int to_child = pidfd_open_(child, O_NONBLOCK), to_zombie = pidfd_open_(zombie, 0), to_self = pidfd_open_(getpid(), 0);
    MUST(to_child >= 0 && to_zombie >= 0 && to_self >= 0 && EVENTUALLY(state_of(zombie, zombie) == 'Z'));
    ready();
    wait_for_question();

    struct epoll_event got = {0};
    CHECK_EQUAL(epoll_wait(epoll, &got, 1, 0), 0, "events before anything happened");
    if (sabotage) touch(inner), unlink(inner);
    touch(inner);
    CHECK(epoll_wait(epoll, &got, 1, 5000) == 1 && got.data.u64 == 77, "the epoll instance says nothing");
    check_event(inotify, on_folder, IN_CREATE, "inner", "a new file");
    chmod(moved, 0640);
    check_event(inotify, on_file, IN_ATTRIB, NULL, "another mode");
    check_event(inotify, on_file, IN_IGNORED, NULL, "the end of a watch for one event");
    unlink(inner);
    check_event(inotify, on_folder, IN_DELETE, "inner", "a file less");
    CHECK(read(inotify, bytes, sizeof bytes) < 0 && errno == EAGAIN, "there is another event");
    CHECK_EQUAL(inotify_add_watch(inotify, folder, IN_CREATE), on_folder, "the number of the folder, asked again");
    CHECK(inotify_rm_watch(inotify, on_folder) == 0, "the watch cannot be removed: %s", strerror(errno));
    CHECK(inotify_add_watch(idle, "/", IN_CREATE) > 0, "the idle instance does not work");

    CHECK_EQUAL(fcntl(to_child, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "non-blocking at the pidfd");
    siginfo_t info = {0};
    CHECK(waitid(P_PIDFD, (id_t)to_child, &info, WEXITED) < 0 && errno == EAGAIN, "waiting for the child does not say EAGAIN");
    CHECK(!pidfd_signal(to_child, SIGTERM), "no signal to the child: %s", strerror(errno));
    bool ended = EVENTUALLY(!waitid(P_PIDFD, (id_t)to_child, &info, WEXITED) && info.si_pid == child);
    CHECK(ended && info.si_status == SIGTERM, "the child did not end by the signal: pid %d status %d", info.si_pid, info.si_status);
    memset(&info, 0, sizeof info);
    CHECK(!waitid(P_PIDFD, (id_t)to_zombie, &info, WEXITED) && info.si_pid == zombie && info.si_status == 5,
          "the zombie is not behind its pidfd: %s", strerror(errno));
    CHECK(!pidfd_signal(to_self, 0), "no signal to myself: %s", strerror(errno));
    verdict();
}
