/* The smallest subject: 1 MiB, one thread, one heart. */
#include "subject.h"

static char block[1 << 20];

int main(int argc, char **argv) {
    begin(argc, argv);
    fill(block, sizeof block, 1);
    pid_t pid = getpid();
    ready();
    uint64_t then = now();
    wait_for_question();
    if (sabotage) block[sizeof block / 2] ^= 1;
    check_filled(block, sizeof block, 1, "the block");
    CHECK_EQUAL(getpid(), pid, "pid");
    CHECK(now() >= then, "the monotonic clock went back by %llu us", (unsigned long long)(then - now()) / 1000);
    verdict();
}
