/* A process whose main thread has ended while others go on, as after pthread_exit(3) in main(). */
#include "subject.h"

#define SIZE (4 << 20)
#define STATUS 7

static int questions[2], answers[2], file;
static char *memory;
static volatile int counter = 1;
static const struct flock LOCK = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5, .l_len = 7};

/* Answers each byte with what it finds of itself: a bit for each thing that is wrong. */
static void *answer(void *nothing) {
    (void)nothing;
    char question;
    while (read(questions[0], &question, 1) == 1 && question != 'q') {
        int wrong = 0, before = counter;
        if (!EVENTUALLY(state_of(getpid(), getpid()) == 'Z')) wrong |= 1;
        if (differs(memory, SIZE, 77) >= 0) wrong |= 2;
        if (!EVENTUALLY(counter != before)) wrong |= 4;
        char byte = (char)('A' + wrong);
        if (write(answers[1], &byte, 1) != 1) break;
    }
    /* Both threads end alone: the process ends with the last of them. */
    counter = 0;
    syscall(SYS_exit, STATUS);
    return NULL;
}

static void *count(void *nothing) {
    while (counter) {
        counter = counter % 1000 + 1;
        sleep_ns(MS);
    }
    syscall(SYS_exit, STATUS);
    return nothing;
}

static void without_head(void) {
    pthread_t threads[2];
    close(questions[1]), close(answers[0]);
    prctl(PR_SET_NAME, "headless-main");
    struct flock lock = LOCK;
    MUST(!fcntl(file, F_SETLK, &lock));
    memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(memory != MAP_FAILED);
    fill(memory, SIZE, 77);
    MUST(!pthread_create(&threads[0], NULL, answer, NULL) && !pthread_create(&threads[1], NULL, count, NULL));
    syscall(SYS_exit, 3);
}

static char asked(char question) {
    char answer = 0;
    if (write(questions[1], &question, 1) != 1 || read(answers[0], &answer, 1) != 1) return 0;
    return answer;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    MUST(!pipe(questions) && !pipe(answers));
    MUST((file = open(path_in(shared_dir, "locked"), O_RDWR | O_CREAT, 0600)) >= 0);
    pid_t pid = fork();
    MUST(pid >= 0);
    if (!pid) without_head();
    close(questions[0]), close(answers[1]);
    MUST(asked('?') == 'A');
    ready();
    wait_for_question();

    if (sabotage) kill(pid, SIGKILL);
    char answer = asked('?');
    CHECK(answer == 'A', "it finds %#x (1: its main thread lives, 2: its memory differs, 4: its other thread stands)", answer - 'A');
    CHECK_EQUAL(state_of(pid, pid), 'Z', "the state of the main thread");
    char path[64], name[32] = {0};
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    CHECK(slurp(path, name, sizeof name) > 0 && !strcmp(name, "headless-main\n"), "its name is %s", name);
    struct flock lock = LOCK;
    CHECK(!fcntl(file, F_GETLK, &lock) && lock.l_type == F_WRLCK && lock.l_pid == pid, "its lock is gone");
    char last = 'q';
    CHECK(write(questions[1], &last, 1) == 1, "it does not listen");
    check_exit(pid, STATUS, "the process without a main thread");
    verdict();
}
