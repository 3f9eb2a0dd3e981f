// A program without a libc that judges itself. `entry` is told in registers what to look at; it
// exits with 0, or with the number of the first check that failed.
typedef unsigned long u64;
typedef long i64;
typedef unsigned int u32;
typedef int i32;

static i64 sys(i64 nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f) {
    register u64 r10 __asm__("r10") = d;
    register u64 r8 __asm__("r8") = e;
    register u64 r9 __asm__("r9") = f;
    i64 ret;
    __asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}
#define S1(n, a) sys(n, (u64)(a), 0, 0, 0, 0, 0)
#define S2(n, a, b) sys(n, (u64)(a), (u64)(b), 0, 0, 0, 0)
#define S3(n, a, b, c) sys(n, (u64)(a), (u64)(b), (u64)(c), 0, 0, 0)
#define S4(n, a, b, c, d) sys(n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), 0, 0)
#define S5(n, a, b, c, d, e) sys(n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), (u64)(e), 0)
static void leave(i32 code) { for (;;) S1(231, code); }
#define CHECK(number, truth) do { if (!(truth)) leave(number); } while (0)

static i32 same(const char *a, const char *b, u64 n) {
    for (u64 i = 0; i < n; i++) if (a[i] != b[i]) return 0;
    return 1;
}

struct ts { i64 s, n; };
struct ev { u32 events; u64 data; } __attribute__((packed));

// fd 3 pipe reader ("hello"), 4 its writer, 5 file at offset 3 of "0123456789", 6 the same
// description, 40 another of the same file, 7 eventfd 3, 8 epoll on 7 (data 77) and 9, 9 nested
// epoll on 3 (data 33), 10 timerfd with 100 s, 11 signalfd for signal 40, 12 memfd at 2,
// 13/14 unix pair with "wait", 15 ghost "gone", 500 /dev/null close-on-exec.
static void files(void) {
    char buf[64];
    CHECK(1, S3(0, 3, buf, 64) == 5 && same(buf, "hello", 5));
    CHECK(2, S3(1, 4, "x", 1) == 1 && S3(0, 3, buf, 1) == 1 && buf[0] == 'x');
    CHECK(3, S3(0, 5, buf, 2) == 2 && same(buf, "34", 2));
    CHECK(4, S3(0, 6, buf, 2) == 2 && same(buf, "56", 2));
    CHECK(5, S3(0, 40, buf, 2) == 2 && same(buf, "01", 2));
    struct ev got[4];
    CHECK(6, S4(232, 8, got, 4, 0) == 1 && got[0].data == 77);
    CHECK(7, S3(1, 4, "y", 1) == 1 && S4(232, 8, got, 4, 0) == 2);
    CHECK(8, S4(232, 9, got, 4, 0) == 1 && got[0].data == 33);
    u64 value = 0;
    CHECK(9, S3(0, 7, &value, 8) == 8 && value == 3);
    CHECK(10, S3(0, 7, &value, 8) == -11);
    struct ts t[2];
    CHECK(11, S2(287, 10, t) == 0 && t[1].s >= 98 && t[1].s <= 100);
    CHECK(12, S2(62, S1(39, 0), 40) == 0);
    char info[128];
    CHECK(13, S3(0, 11, info, 128) == 128 && *(u32 *)info == 40);
    CHECK(14, S3(0, 12, buf, 3) == 3 && same(buf, "cde", 3));
    CHECK(15, S3(0, 13, buf, 64) == 4 && same(buf, "wait", 4));
    CHECK(16, S3(1, 14, "pong", 4) == 4 && S3(0, 13, buf, 64) == 4 && same(buf, "pong", 4));
    CHECK(17, S3(0, 15, buf, 64) == 4 && same(buf, "gone", 4));
    CHECK(18, S3(72, 500, 1, 0) == 1 && S3(72, 5, 1, 0) == 0);
    CHECK(19, S3(72, 16, 1, 0) == -9 && S3(72, 501, 1, 0) == -9 && S3(72, 0, 1, 0) == -9);
    // The memfd is mapped shared at 0x700000 too.
    CHECK(20, same((char *)0x700000, "abcdef", 6));
    *(char *)0x700000 = 'Z';
    CHECK(21, S4(17, 12, buf, 1, 0) == 1 && buf[0] == 'Z');
    CHECK(22, S3(72, 12, 1034, 0) == 3);
    CHECK(23, same((char *)0x702000, "anonymous", 9));
    i64 maps = S2(2, "/proc/self/maps", 0), len = 0, got_bytes;
    static char text[8192];
    while ((got_bytes = S3(0, maps, text + len, 8191 - len)) > 0) len += got_bytes;
    i32 found = 0;
    for (i64 i = 0; i + 20 < len; i++)
        found |= same(text + i, "/dev/zero (deleted)", 19) && !same(text + i - 6, "memfd:", 6);
    CHECK(24, found);
    leave(0);
}

static u32 got_alarm;
static void on_signal(i32 number) { got_alarm = number; }
__attribute__((naked)) static void restorer(void) { __asm__("mov $15, %eax; syscall"); }

static void identity(void) {
    u32 a, b, c;
    S3(118, &a, &b, &c);
    CHECK(1, a == 1001 && b == 1002 && c == 1003);
    S3(120, &a, &b, &c);
    CHECK(2, a == 2001 && b == 2002 && c == 2003);
    u32 groups[8];
    CHECK(3, S2(115, 8, groups) == 2 && groups[0] == 11 && groups[1] == 12);
    u32 head[2] = {0x20080522, 0}, caps[6];
    CHECK(4, S2(125, head, caps) == 0);
    CHECK(5, caps[0] == 0x400 && caps[1] == 0x480 && caps[2] == 0x400);
    CHECK(6, S5(157, 47, 1, 10, 0, 0) == 1 && S5(157, 47, 1, 7, 0, 0) == 0);
    CHECK(7, S2(157, 23, 10) == 1 && S2(157, 23, 21) == 0);
    CHECK(8, S1(157, 27) == 0x10);
    CHECK(9, S5(157, 39, 0, 0, 0, 0) == 1);
    CHECK(10, S1(95, 022) == 027);
    char buf[256];
    CHECK(11, S2(79, buf, 256) == 5 && same(buf, "/tmp", 5));
    u64 limit[2];
    CHECK(12, S2(97, 7, limit) == 0 && limit[0] == 600 && limit[1] == 700);
    CHECK(13, S2(97, 4, limit) == 0 && limit[0] == 0 && limit[1] == 0);
    CHECK(14, S5(157, 16, buf, 0, 0, 0) == 0 && same(buf, "judge me", 9));
    u64 pending;
    CHECK(15, S2(127, &pending, 8) == 0 && pending == (1UL << 9 | 1UL << 11 | 1UL << 39));
    u64 mask;
    CHECK(16, S4(14, 0, 0, &mask, 8) == 0 && mask == ~(1UL << 33 | 1UL << 8 | 1UL << 18));
    u64 act[4];
    CHECK(17, S4(13, 5, 0, act, 8) == 0 && act[0] == 1);
    CHECK(18, S4(13, 34, 0, act, 8) == 0 && act[0] == (u64)0x400000 + 0x10 && act[3] == 8);
    u32 pdeath;
    CHECK(19, S2(157, 2, &pdeath) == 0 && pdeath == 12);
    CHECK(20, S1(157, 3) == 0);
    u64 stack[3];
    CHECK(21, S2(131, 0, stack) == 0 && stack[0] == 0x601000 && stack[2] == 8192 && (u32)stack[1] == 0);
    u64 timer[4];
    CHECK(22, S2(36, 0, timer) == 0 && timer[2] >= 48 && timer[2] <= 50 && timer[0] == 7);
    CHECK(23, S2(224, 5, timer) == 0 && timer[2] >= 58 && timer[2] <= 60);
    CHECK(24, S2(224, 777, timer) == 0 && timer[2] >= 58 && timer[2] <= 60);
    CHECK(25, S2(140, 0, 0) == 20 - 5);
    CHECK(26, S1(135, 0xffffffff) == 0x40000);
    CHECK(27, S1(39, 0) == S1(124, 0) && S1(121, 0) == S1(39, 0));
    u64 robust, len;
    CHECK(28, S3(274, 0, &robust, &len) == 0 && robust == 0x602000 && len == 24);
    u64 clear;
    CHECK(29, S2(157, 40, &clear) == 0 && clear == 0x602040);
    u32 registered = *(u32 *)(0x602100 + 4);
    CHECK(30, registered < 8192);
    u64 info[16];
    struct ts none = {0, 0};
    u64 only = 1UL << 39;
    CHECK(31, S4(128, &only, info, &none, 8) == 40 && (i32)info[1] == -1 && info[3] == 0x1234);
    // brk goes on where it was.
    CHECK(32, S1(12, 0) == 0x900000 && S1(12, 0x902000) == 0x902000);
    *(char *)0x901fff = 1;
    // Signals 10 and 12 were pending; let signal 12 in.
    u64 action[4] = {(u64)on_signal, 0x04000000, (u64)restorer, 0};
    CHECK(33, S4(13, 12, action, 0, 8) == 0);
    u64 unblock = 1UL << 11;
    CHECK(34, S4(14, 1, &unblock, 0, 8) == 0 && got_alarm == 12);
    leave(0);
}

static volatile u32 here;
static volatile u32 names;
static void thread(u64 number) {
    char buf[16];
    if (S5(157, 16, buf, 0, 0, 0) == 0 && buf[0] == 't') __atomic_add_fetch(&names, 1, 5);
    if (S1(186, 0) != (i64)number) leave(9);
    __atomic_add_fetch(&here, 1, 5);
    S3(202, &here, 1, 1);
    for (;;) S1(60, 0);
}
static void threads(u64 count) {
    for (;;) {
        u32 now = here;
        if (now == count) break;
        S4(202, &here, 0, now, 0);
    }
    CHECK(1, names == count);
    leave(0);
}

// Table at 0x610000: count, then (pid, pgid, sid, status) for every task but this; a status of -1
// is a living child that is only looked at.
static void tree(void) {
    i32 *row = (i32 *)0x610000;
    i32 count = *row++;
    for (i32 i = 0; i < count; i++, row += 4) {
        CHECK(1 + i * 4, S1(121, row[0]) == row[1]);
        CHECK(2 + i * 4, S1(124, row[0]) == row[2]);
        if (row[3] >= 0) {
            i32 status = 0;
            CHECK(3 + i * 4, S4(61, row[0], &status, 0, 0) == row[0]);
            CHECK(4 + i * 4, status == row[3]);
        }
    }
    i32 status;
    u64 pending;
    CHECK(240, S2(127, &pending, 8) == 0 && pending == 0);
    CHECK(241, S4(61, -1, &status, 1, 0) == 0);
    leave(0);
}

// What a relative sleep returns to: milliseconds slept since `began` must be about `wanted`.
static void slept(u64 result, u64 wanted) {
    struct ts *began = (struct ts *)0x610000, now;
    CHECK(1, result == 0);
    S2(228, 1, &now);
    i64 ms = (now.s - began->s) * 1000 + (now.n - began->n) / 1000000;
    CHECK(2, ms >= (i64)wanted - 1);
    CHECK(3, ms <= (i64)wanted + 400);
    leave(0);
}

__attribute__((section(".text.entry"), naked)) void entry(void) {
    __asm__("jmp choose\n.balign 16\nretq\n.balign 16\n"
            // 0x400020: a call to be made again; then r14, r15 say what to look at.
            "syscall\nmov %r14, %rdi\nmov %r15, %rsi\njmp choose\n");
}
// rdi: what, rsi: argument, rax: result of a call that was interrupted.
__attribute__((naked)) void choose(void) { __asm__("mov %rax, %rdx\njmp chosen"); }
void chosen(u64 what, u64 argument, u64 result) {
    switch (what) {
    case 0: leave(argument);
    case 1: files();
    case 2: identity();
    case 3: threads(argument);
    case 4: thread(argument);
    case 5: tree();
    case 6: for (;;) S1(34, 0);
    case 7: slept(result, argument);
    case 8: { struct ts t; S2(228, 1, &t); leave(t.s - (i64)argument < 5 && t.s >= (i64)argument ? 0 : 1); }
    case 9: CHECK(1, S1(39, 0) == (i64)argument); CHECK(2, S1(110, 0) == 1); leave(200);
    }
    leave(255);
}
