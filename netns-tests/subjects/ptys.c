/* A terminal of its own: a master here, a session with a foreground job on the slave; modes, window
 * and numbers; signals of the keyboard reach the job. And a pair that nobody has as terminal. */
#include <sys/ioctl.h>
#include <termios.h>

#include "subject.h"

static int master_of(int *index) {
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    MUST(master >= 0 && !grantpt(master) && !unlockpt(master) && !ioctl(master, TIOCGPTN, index));
    return master;
}

static int slave_of(int index) {
    char path[64];
    snprintf(path, sizeof path, "/dev/pts/%d", index);
    int slave = open(path, O_RDWR | O_NOCTTY);
    MUST(slave >= 0);
    return slave;
}

static void answer(int slave, const char *format, int a, int b, int c) {
    char line[100];
    int length = snprintf(line, sizeof line, format, a, b, c);
    if (write(slave, line, (size_t)length) != length) _exit(7);
}

/* The handler itself tells: a job that tells once its read() was interrupted would miss a signal
 * that comes before it reads again. */
static int terminal, interrupted, resized;
static void on_signal(int signal) {
    struct winsize size;
    *(signal == SIGINT ? &interrupted : &resized) += 1;
    ioctl(terminal, TIOCGWINSZ, &size);
    answer(terminal, "signals %d %d %d\n", interrupted, resized, size.ws_col);
}

/* Echoes words, tells of signals, as a shell's foreground job would. */
static void job(int slave) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaddset(&action.sa_mask, SIGINT), sigaddset(&action.sa_mask, SIGWINCH);
    terminal = slave;
    sigaction(SIGINT, &action, NULL), sigaction(SIGWINCH, &action, NULL);
    answer(slave, "job %d %d %d\n", 0, 0, 0);
    for (;;) {
        char word[100];
        ssize_t got = read(slave, word, sizeof word);
        if (got <= 0) _exit(9);
        if (word[0] == 'q') _exit(0);
        int tty = open("/dev/tty", O_RDWR);
        answer(slave, "told %d %d %d\n", tcgetpgrp(slave) == getpgrp(), tty >= 0 && tcgetsid(slave) == getsid(0), (int)got);
        if (tty >= 0) close(tty);
    }
}

static void expect(int master, const char *wanted, const char *what) {
    char got[200] = "";
    size_t used = 0;
    uint64_t end = now() + 10 * SECOND;
    while (used + 1 < sizeof got && !strchr(got, '\n') && now() < end) {
        ssize_t n = read(master, got + used, 1);
        if (n > 0) got[used += (size_t)n] = 0;
        else sleep_ns(MS / 2);
    }
    CHECK(!strcmp(got, wanted), "%s: %s", what, got);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    int spare_index, index, other_index;
    int spare = master_of(&spare_index), master = master_of(&index), other = master_of(&other_index);
    int slave = slave_of(index), other_slave = slave_of(other_index);
    close(spare); /* the numbers do not begin with ours */
    struct termios modes;
    MUST(!tcgetattr(slave, &modes));
    modes.c_lflag &= (tcflag_t)~ECHO;
    modes.c_oflag &= (tcflag_t)~OPOST;
    modes.c_cc[VINTR] = 'X';
    struct winsize size = {.ws_row = 33, .ws_col = 44, .ws_xpixel = 5, .ws_ypixel = 6};
    MUST(!tcsetattr(slave, TCSANOW, &modes) && !ioctl(master, TIOCSWINSZ, &size) && !fcntl(master, F_SETFL, O_NONBLOCK));
    struct termios raw;
    MUST(!tcgetattr(other_slave, &raw));
    cfmakeraw(&raw);
    MUST(!tcsetattr(other_slave, TCSANOW, &raw));

    pid_t shell = fork();
    MUST(shell >= 0);
    if (!shell) {
        setsid();
        close(master), close(other), close(other_slave);
        if (ioctl(slave, TIOCSCTTY, 0)) _exit(4);
        signal(SIGTTOU, SIG_IGN);
        pid_t child = fork();
        if (!child) {
            setpgid(0, 0);
            if (tcsetpgrp(slave, getpid())) _exit(5);
            job(slave);
        }
        int status;
        if (waitpid(child, &status, 0) != child) _exit(6);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 8);
    }
    expect(master, "job 0 0 0\n", "the beginning");
    ready();
    wait_for_question();

    if (sabotage) tcgetattr(slave, &modes), modes.c_cc[VINTR] = 'Y', tcsetattr(slave, TCSANOW, &modes);
    int got_index = -1;
    CHECK(!ioctl(master, TIOCGPTN, &got_index) && got_index == index, "the number is %d, was %d", got_index, index);
    char path[64], name[64] = "";
    snprintf(path, sizeof path, "/dev/pts/%d", index);
    CHECK(!ttyname_r(slave, name, sizeof name) && !strcmp(name, path), "the slave is %s, was %s", name, path);
    struct winsize now_size = {0};
    CHECK(!ioctl(slave, TIOCGWINSZ, &now_size) && !memcmp(&size, &now_size, sizeof size), "the window is %d x %d", now_size.ws_row, now_size.ws_col);
    struct termios now_modes;
    CHECK(!tcgetattr(slave, &now_modes), "no modes: %s", strerror(errno));
    CHECK(!(now_modes.c_lflag & ECHO) && now_modes.c_lflag & ICANON && !(now_modes.c_oflag & OPOST), "the modes differ: 0x%x 0x%x", now_modes.c_lflag, now_modes.c_oflag);
    CHECK_EQUAL(now_modes.c_cc[VINTR], 'X', "the character that interrupts");
    CHECK_EQUAL(fcntl(master, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "non-blocking at the master");
    CHECK(write(master, "word\n", 5) == 5, "nothing can be typed: %s", strerror(errno));
    expect(master, "told 1 1 5\n", "a word");
    CHECK(write(master, "X", 1) == 1, "nothing can be typed");
    expect(master, "signals 1 0 44\n", "an interrupt");
    now_size.ws_col = 55;
    CHECK(!ioctl(master, TIOCSWINSZ, &now_size), "the window cannot be changed");
    expect(master, "signals 1 1 55\n", "another window");
    char byte = 0;
    CHECK(write(other_slave, "r", 1) == 1 && read(other, &byte, 1) == 1 && byte == 'r', "the raw pair is parted");
    CHECK(write(other, "\3", 1) == 1 && read(other_slave, &byte, 1) == 1 && byte == 3, "the raw pair is not raw");
    CHECK(write(master, "q\n", 2) == 2, "nothing can be typed");
    check_exit(shell, 0, "the session");
    verdict();
}
