/* Restartable sequences: two threads on one CPU write their name into a slot of that CPU, linger, and
 * look at it again, all in one critical section that must be aborted when it is interrupted. If one
 * is stopped inside and resumed without an abort, it finds the other's name. A third thread roams,
 * and must find itself on the CPU where its section began. */
#include <sys/rseq.h>

#include "subject.h"

struct sections { uint64_t done, aborted, broken; };

static volatile uint64_t slot;
static _Atomic bool stop;
static _Atomic int going;

/* 0 done, 1 aborted, 2 broken. */
static int linger(struct rseq *area, uint64_t me, uint64_t spins) {
    uint64_t result;
    __asm__ volatile(
        ".pushsection __rseq_cs, \"aw\"; .balign 32\n"
        "9: .long 0, 0; .quad 1f, 2f - 1f, 4f\n"
        ".popsection\n"
        "  leaq 9b(%%rip), %%rax\n"
        "  movq %%rax, %[cs]\n"
        "1: movq %[me], %[slot]\n"
        "  rdtscp\n"
        "  movl %%ecx, %%esi\n"
        "  movq %[spins], %%rdi\n"
        "5: pause\n"
        "  decq %%rdi\n"
        "  jnz 5b\n"
        "  rdtscp\n"
        "  cmpl %%ecx, %%esi\n"
        "  jne 6f\n"
        "  testq %[me], %[me]\n" /* the roaming thread has no name, and the slot is not its */
        "  jz 7f\n"
        "  cmpq %[me], %[slot]\n"
        "  jne 6f\n"
        "7: movq $0, %%rdi\n"
        "2: jmp 8f\n"
        "  .byte 0x0f, 0xb9, 0x3d\n"
        "  .long 0x53053053\n"
        "4: movq $1, %%rdi\n"
        "  jmp 8f\n"
        "6: movq $2, %%rdi\n"
        "8: movq $0, %[cs]\n"
        : "=&D"(result), [slot] "+m"(*(volatile uint64_t *)(me ? &slot : &(uint64_t){0}))
        : [me] "r"(me), [spins] "r"(spins), [cs] "m"(area->rseq_cs)
        : "rax", "rcx", "rdx", "rsi", "cc", "memory");
    return (int)result;
}

static void *work(void *argument) {
    struct sections *mine = argument;
    uint64_t me = mine->done;
    mine->done = 0;
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    if (me) MUST(!sched_setaffinity(0, sizeof first, &first));
    struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
    going++;
    while (!stop) {
        uint64_t *count[] = {&mine->done, &mine->aborted, &mine->broken};
        (*count[linger(area, me, 5000)])++;
    }
    return NULL;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    if (!__rseq_size) cannot(__FILE__, __LINE__, "this C library has no rseq");
    static struct sections sections[3] = {{1, 0, 0}, {2, 0, 0}, {0, 0, 0}};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) MUST(!pthread_create(&threads[i], NULL, work, &sections[i]));
    MUST(EVENTUALLY(going == 3));
    ready();
    wait_for_question();

    struct sections before[3];
    memcpy(before, sections, sizeof before);
    /* However busy the machine is. */
    for (int i = 0; i < 3; i++) (void)EVENTUALLY(*(volatile typeof(sections[i].done) *)&sections[i].done > before[i].done);
    stop = true;
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    if (sabotage) sections[1].broken++;
    for (int i = 0; i < 3; i++) {
        CHECK(!sections[i].broken, "thread %d: %llu broken sections", i, (unsigned long long)sections[i].broken);
        CHECK(sections[i].done > before[i].done, "thread %d stands still", i);
    }
    /* Two share a CPU all the time: without aborts the registration is gone. */
    CHECK(sections[0].aborted + sections[1].aborted > before[0].aborted + before[1].aborted, "no section is aborted any more");
    verdict();
}
