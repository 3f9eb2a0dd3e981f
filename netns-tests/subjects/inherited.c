/* Memory that a parent wrote before it forked, and that its children and grandchild share with it copy on write.
 * Each has changed a little of it, dropped a piece, and has a heap of its own length; the parent too. In the report:
 * what all of them took before, and now, and how much it would be if nothing were shared (in KiB).
 *
 * `keep 1`: what was shared must still be. `mib N`: how much. */
#include "subject.h"

#define CHILDREN 5
#define MIB (1ul << 20)

struct talk { _Atomic int go, told; };
static struct talk *talk; /* shared by all */
static char *memory, *arena;
static size_t size;
static long before;

/* The pages that process `who` (0 is the parent) has changed, and those it has given back. */
static size_t changed(int who) { return (size_t)(who + 1) * 16 * PAGE; }
static size_t dropped(int who) { return size / 2 + (size_t)(who + 1) * 16 * PAGE; }

static void change(int who) {
    fill(memory + changed(who), 4 * PAGE, 900 + (uint64_t)who);
    MUST(!madvise(memory + dropped(who), 4 * PAGE, MADV_DONTNEED));
    fill(arena, 2 * PAGE, 950 + (uint64_t)who);
    MUST(!mprotect(arena + 64 * PAGE, (size_t)(who + 1) * PAGE, PROT_READ));
}

/* 40 if all is as it was, else a number that tells what is not. What `mother` had changed before is this one's too. */
static int judge(int who, int mother) {
    for (size_t at = 0; at < size; at += 4 * PAGE) {
        uint64_t seed = at == changed(who) ? 900 + (uint64_t)who : at == changed(mother) ? 900 + (uint64_t)mother : 100 + at / PAGE;
        if (at == dropped(who) || at == dropped(mother)) {
            for (size_t i = 0; i < 4 * PAGE; i++)
                if (memory[at + i]) return 1;
        } else if (differs(memory + at, 4 * PAGE, seed) >= 0) return 2;
    }
    if (differs(arena, 2 * PAGE, 950 + (uint64_t)who) >= 0) return 3;
    if (differs(arena + 2 * PAGE, MIB - 2 * PAGE, 77) >= 0) return 4;
    if (has_flag(arena + 64 * PAGE, "wr") || !has_flag(arena + (size_t)(65 + who) * PAGE, "wr")) return 5;
    /* Private to each, as ever. */
    fill(memory, size, 5000 + (uint64_t)who);
    sleep_ns(20 * MS);
    return differs(memory, size, 5000 + (uint64_t)who) < 0 ? 40 : 6;
}

static pid_t bear(int who, int mother, bool with_grandchild) {
    pid_t child = fork();
    MUST(child >= 0);
    if (child) return child;
    change(who);
    pid_t grandchild = with_grandchild ? bear(who + 1, who, false) : 0;
    if (!with_grandchild && who == CHILDREN - 1) MUST(sbrk(2 * MIB) != (void *)-1);
    talk->told++;
    while (!talk->go) sleep_ns(MS);
    int code = judge(who, mother), status = 0;
    if (grandchild && (waitpid(grandchild, &status, 0) != grandchild || !WIFEXITED(status) || WEXITSTATUS(status) != 40)) code = 7;
    _exit(code);
}

int main(int argc, char **argv) {
    begin(argc, argv);
    size = (size_t)option_number("mib", 16) * MIB;
    talk = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    arena = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(talk != MAP_FAILED && memory != MAP_FAILED && arena != MAP_FAILED);
    MUST(!madvise(memory, size, MADV_NOHUGEPAGE) || errno == EINVAL);
    for (size_t at = 0; at < size; at += 4 * PAGE) fill(memory + at, 4 * PAGE, 100 + at / PAGE);
    fill(arena + 2 * PAGE, MIB - 2 * PAGE, 77);
    char *heap = malloc(100000);
    fill(heap, 100000, 78);

    pid_t children[CHILDREN];
    int count = 0;
    for (int who = 1; who < CHILDREN; who++) {
        children[count++] = bear(who, who, who == CHILDREN - 2);
        if (who == CHILDREN - 2) who++; /* that one's child has the next number */
    }
    MUST(EVENTUALLY(talk->told == CHILDREN - 1));
    change(0);
    before = rollup_of(getpid(), "Pss");
    for (int i = 0; i < count; i++) before += rollup_of(children[i], "Pss");
    ready();
    wait_for_question();

    long now = rollup_of(getpid(), "Pss");
    for (int i = 0; i < count; i++) now += rollup_of(children[i], "Pss");
    snprintf(extra_report, sizeof extra_report, " pss_before=%ld pss_now=%ld unshared=%ld", before, now,
             (long)(size >> 10) * (count + 1));
    if (option_number("keep", 0)) CHECK(now < before + before / 4, "memory takes %ld KiB, was %ld: it is not shared any more", now, before);
    if (sabotage) memory[changed(0) + 17] ^= 1;
    check_filled(heap, 100000, 78, "the heap");
    talk->go = 1;
    CHECK_EQUAL(judge(0, 0), 40, "what the parent finds");
    for (int i = 0; i < count; i++) check_exit(children[i], 40, "a child that looks at what it was born with");
    verdict();
}
