/* Children that have ended and that nobody has asked for yet; later they are. */
#include "subject.h"

int main(int argc, char **argv) {
    begin(argc, argv);
    pid_t exited = fork();
    MUST(exited >= 0);
    if (!exited) _exit(42);
    pid_t killed = fork();
    MUST(killed >= 0);
    if (!killed)
        for (;;) pause();
    MUST(!kill(killed, SIGKILL));
    pid_t living = fork();
    MUST(living >= 0);
    if (!living)
        for (;;) pause();
    MUST(EVENTUALLY(state_of(exited, exited) == 'Z' && state_of(killed, killed) == 'Z'));
    ready();
    wait_for_question();

    if (sabotage) waitpid(exited, NULL, 0);
    CHECK(state_of(exited, exited) == 'Z', "the exited child is no zombie but '%c'", state_of(exited, exited));
    CHECK(state_of(killed, killed) == 'Z', "the killed child is no zombie but '%c'", state_of(killed, killed));
    siginfo_t info = {0};
    CHECK(!waitid(P_PID, (id_t)exited, &info, WEXITED | WNOWAIT | WNOHANG), "waitid: %s", strerror(errno));
    CHECK(info.si_code == CLD_EXITED && info.si_status == 42, "waitid says code %d status %d", info.si_code, info.si_status);
    check_exit(exited, 42, "the exited child");
    int status = 0;
    CHECK(waitpid(killed, &status, WNOHANG) == killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
          "the killed child has status 0x%x", status);
    CHECK_EQUAL(waitpid(living, &status, WNOHANG), 0, "waitpid of the living child");
    CHECK(!kill(living, SIGTERM), "kill: %s", strerror(errno));
    bool ended = EVENTUALLY(waitpid(living, &status, WNOHANG) == living);
    CHECK(ended && WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "the living child has status 0x%x", status);
    verdict();
}
