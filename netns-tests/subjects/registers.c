/* Three threads that hold every register at a known value: computing, in a system call that sleeps,
 * and in one that waits for a descriptor. Each compares all of them again and again, with new values
 * each time: 15 general registers, x87 with control word, mxcsr, and the xmm, ymm, zmm and k
 * registers as far as the CPU has them. The GS base points to the thread's own area. */
#include <asm/prctl.h>
#include <cpuid.h>
#include <poll.h>
#include <stddef.h>

#include "subject.h"

enum { RAX, RBX, RCX, RDX, RSI, RDI, RBP, R8, R9, R10, R11, R12, R13, R14, R15, GENERAL };
static const char *names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};

/* The assembly below knows these offsets. */
struct area {
    uint64_t want[GENERAL]; /* 0 */
    uint64_t got[GENERAL];  /* 120 */
    uint64_t saved_rsp;     /* 240 */
    uint64_t spins;         /* 248 */
    void *want_extended;    /* 256 */
    void *got_extended;     /* 264 */
    void *clean_extended;   /* 272 */
    uint64_t features;      /* 280 */
};
_Static_assert(offsetof(struct area, got) == 120 && offsetof(struct area, features) == 280, "see the assembly");

void round_computing(void);
void round_calling(void);

__asm__(".macro load_all\n"
        "  push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "  mov %rsp, %gs:240\n"
        "  mov %gs:272, %rcx; mov %gs:280, %rax; mov %rax, %rdx; shr $32, %rdx; xsave64 (%rcx)\n"
        "  mov %gs:256, %rcx; xrstor64 (%rcx)\n"
        "  mov %gs:0, %rax;   mov %gs:8, %rbx;   mov %gs:16, %rcx;  mov %gs:24, %rdx;  mov %gs:32, %rsi\n"
        "  mov %gs:40, %rdi;  mov %gs:48, %rbp;  mov %gs:56, %r8;   mov %gs:64, %r9;   mov %gs:72, %r10\n"
        "  mov %gs:80, %r11;  mov %gs:88, %r12;  mov %gs:96, %r13;  mov %gs:104, %r14; mov %gs:112, %r15\n"
        ".endm\n"
        ".macro store_all\n"
        "  mov %rax, %gs:120; mov %rbx, %gs:128; mov %rcx, %gs:136; mov %rdx, %gs:144; mov %rsi, %gs:152\n"
        "  mov %rdi, %gs:160; mov %rbp, %gs:168; mov %r8, %gs:176;  mov %r9, %gs:184;  mov %r10, %gs:192\n"
        "  mov %r11, %gs:200; mov %r12, %gs:208; mov %r13, %gs:216; mov %r14, %gs:224; mov %r15, %gs:232\n"
        "  mov %gs:264, %rcx; mov %gs:280, %rax; mov %rax, %rdx; shr $32, %rdx; xsave64 (%rcx)\n"
        "  mov %gs:272, %rcx; xrstor64 (%rcx)\n"
        "  mov %gs:240, %rsp\n"
        "  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "  ret\n"
        ".endm\n"
        ".text\n"
        ".globl round_computing\n"
        "round_computing:\n"
        "  load_all\n"
        "1: subq $1, %gs:248\n"
        "  jnz 1b\n"
        "  store_all\n"
        /* rax is the number of the call; it must come back as 0 every time. */
        ".globl round_calling\n"
        "round_calling:\n"
        "  load_all\n"
        "2: mov %gs:0, %rax\n"
        "  syscall\n"
        "  test %rax, %rax\n"
        "  jnz 3f\n"
        "  subq $1, %gs:248\n"
        "  jnz 2b\n"
        "3: store_all\n");

enum mode { COMPUTING, SLEEPING, POLLING };

struct worker {
    pthread_t thread;
    enum mode mode;
    struct area area;
    _Atomic uint64_t rounds;
    _Atomic bool stop, lie;
    char wrong[200];
};

static uint64_t features;
static uint32_t image_size, offsets[8], sizes[8];
static int silent_pipe[2];

static void learn_cpu(void) {
    uint32_t low, high, a, b, c, d;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    features = low & 0xe7; /* x87, SSE, AVX, and the three of AVX-512 */
    MUST(__get_cpuid_count(0xd, 0, &a, &b, &c, &d));
    image_size = b;
    for (uint32_t i = 2; i < 8; i++)
        if (features >> i & 1) {
            MUST(__get_cpuid_count(0xd, i, &a, &b, &c, &d));
            sizes[i] = a, offsets[i] = b;
        }
}

static void *image(void) {
    void *at = aligned_alloc(64, (image_size + 63) & ~63u);
    MUST(at);
    return memset(at, 0, image_size);
}

static void make_extended(char *x, uint64_t seed) {
    fill(x + 160, 256, seed); /* xmm */
    for (int i = 0; i < 8; i++) fill(x + 32 + 16 * i, 10, seed + 1 + (uint64_t)i);
    memcpy(x, &(uint16_t[]){0x0e7f, 0x1800}, 4); /* round down, extended precision; top of stack 3 */
    x[4] = (char)0xff;
    memcpy(x + 24, &(uint32_t){0xffc0}, 4); /* round to zero, flush, denormals are zero, no traps */
    for (int i = 2; i < 8; i++)
        if (sizes[i]) fill(x + offsets[i], sizes[i], seed + 100 + (uint64_t)i);
    memcpy(x + 512, &features, 8);
}

static const char *compare_extended(const char *want, const char *got) {
    static const char *components[] = {"", "", "ymm", "", "", "k", "zmm0-15", "zmm16-31"};
    if (memcmp(want, got, 5)) return "x87 control, status or tags";
    for (int i = 0; i < 8; i++)
        if (memcmp(want + 32 + 16 * i, got + 32 + 16 * i, 10)) return "an x87 register";
    if (memcmp(want + 24, got + 24, 4)) return "mxcsr";
    if (memcmp(want + 160, got + 160, 256)) return "an xmm register";
    for (int i = 2; i < 8; i++)
        if (sizes[i] && memcmp(want + offsets[i], got + offsets[i], sizes[i])) return components[i];
    return NULL;
}

static void *work(void *argument) {
    struct worker *me = argument;
    struct area *area = &me->area;
    *area = (struct area){.want_extended = image(), .got_extended = image(), .clean_extended = image(), .features = features};
    MUST(!syscall(SYS_arch_prctl, ARCH_SET_GS, area));
    struct timespec nap = timespec_of(2 * MS);
    struct pollfd silent = {.fd = silent_pipe[0], .events = POLLIN};
    for (uint64_t round = 1; !me->stop && !me->wrong[0]; round++) {
        fill(area->want, sizeof area->want, round * 8 + me->mode);
        make_extended(area->want_extended, round * 1000 + me->mode);
        if (me->mode == COMPUTING) {
            area->spins = 3000000;
            round_computing();
        } else {
            area->spins = 5;
            if (me->mode == SLEEPING) { /* clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL) */
                area->want[RAX] = SYS_clock_nanosleep, area->want[RDI] = CLOCK_MONOTONIC, area->want[RSI] = 0;
                area->want[RDX] = (uint64_t)&nap, area->want[R10] = 0;
            } else { /* poll(&silent, 1, 3 ms) */
                area->want[RAX] = SYS_poll, area->want[RDI] = (uint64_t)&silent, area->want[RSI] = 1, area->want[RDX] = 3;
            }
            round_calling();
        }
        if (me->lie) area->got[R14] ^= 1;
        for (int i = 0; i < GENERAL; i++) {
            uint64_t want = area->want[i];
            if (me->mode != COMPUTING && (i == RCX || i == R11)) continue; /* the syscall instruction takes these */
            if (me->mode != COMPUTING && i == RAX) want = 0;
            if (area->got[i] != want)
                snprintf(me->wrong, sizeof me->wrong, "round %llu: %s is %llx, was %llx", (unsigned long long)round, names[i],
                         (unsigned long long)area->got[i], (unsigned long long)want);
        }
        const char *extended = compare_extended(area->want_extended, area->got_extended);
        if (extended && !me->wrong[0]) snprintf(me->wrong, sizeof me->wrong, "round %llu: %s", (unsigned long long)round, extended);
        me->rounds++;
    }
    return NULL;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    learn_cpu();
    MUST(!pipe(silent_pipe));
    static struct worker workers[3];
    for (int i = 0; i < 3; i++) {
        workers[i].mode = (enum mode)i;
        MUST(!pthread_create(&workers[i].thread, NULL, work, &workers[i]));
    }
    for (int i = 0; i < 3; i++) MUST(EVENTUALLY(workers[i].rounds >= 2));
    ready();
    wait_for_question();

    static const char *modes[] = {"computing", "sleeping", "polling"};
    for (int i = 0; i < 3; i++) {
        uint64_t rounds = workers[i].rounds;
        if (sabotage) workers[i].lie = true;
        CHECK(EVENTUALLY(workers[i].wrong[0] || workers[i].rounds > rounds + 1), "%s stands still", modes[i]);
        workers[i].stop = true;
        pthread_join(workers[i].thread, NULL);
        CHECK(!workers[i].wrong[0], "%s: %s", modes[i], workers[i].wrong);
    }
    verdict();
}
