/* Memory that a parent wrote before it forked: of a quiet part nobody changes anything, a busy part is written to all
 * the time, at random, by the parent, its children and a grandchild, who also give pages back, and map some anew. Each
 * writes down which page it wrote how often, in memory that is shared and not copied, and judges its own. In the report:
 * what all of them take before and now, and what they would if nothing were shared (in KiB).
 *
 * `keep 1`: the quiet part must still be shared. `passing 1`: another child comes and goes all the time. `quiet N`, `busy N`: MiB of each. `pause N`: microseconds between two
 * writes. */
#include "subject.h"

#define HEIRS 4
#define MIB (1ul << 20)

enum { BORN = 0, EMPTY = 1 }; /* else it was written so many times */
struct talk { _Atomic int told, stop; };
static struct talk *talk;
static uint32_t *book[HEIRS]; /* shared: what there is in each page */
static char *quiet, *busy;
static size_t quiet_pages, busy_pages;
static long delay;

static uint64_t seed_of(int who, size_t page, uint32_t version) {
    return version == BORN ? 7000000 + page : ((uint64_t)(who + 1) << 56) + ((uint64_t)version << 24) + page;
}

static void anew(int who, size_t page, size_t count) {
    char *at = busy + page * PAGE;
    for (size_t i = 0; i < count; i++) book[who][page + i] = EMPTY;
    MUST(mmap(at, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
}

/* Until told to stop. What the book says is always what there is, or about to be. */
static void live(int who) {
    uint64_t chance = 1000003 * (uint64_t)(who + 1);
    uint32_t count = EMPTY;
    while (!talk->stop) {
        chance = scramble(chance);
        size_t page = chance % busy_pages;
        char *at = busy + page * PAGE;
        if (chance >> 60 == 0) {
            book[who][page] = EMPTY;
            MUST(!madvise(at, PAGE, MADV_DONTNEED));
        } else if (chance >> 56 == 0x10) {
            anew(who, page, 1);
        } else {
            book[who][page] = ++count;
            fill(at, PAGE, seed_of(who, page, count));
        }
        if (delay) sleep_ns((uint64_t)delay * 1000);
    }
}

/* 40 if all is as it was, else a number that tells what is not. */
static int judge(int who) {
    for (size_t page = 0; page < quiet_pages; page++)
        if (differs(quiet + page * PAGE, PAGE, 100 + page) >= 0) return 1;
    for (size_t page = 0; page < busy_pages; page++) {
        char *at = busy + page * PAGE;
        uint32_t version = book[who][page];
        if (version == EMPTY) {
            for (size_t i = 0; i < PAGE; i++)
                if (at[i]) return 2;
        } else if (differs(at, PAGE, seed_of(who, page, version)) >= 0) {
            return version == BORN ? 3 : 4;
        }
    }
    return 40;
}

static pid_t bear(int who, bool with_grandchild) {
    pid_t child = fork();
    MUST(child >= 0);
    if (child) return child;
    pid_t grandchild = with_grandchild ? bear(who + 1, false) : 0;
    anew(who, 0, (size_t)who);
    talk->told++;
    live(who);
    int code = judge(who), status = 0;
    if (grandchild && (waitpid(grandchild, &status, 0) != grandchild || !WIFEXITED(status) || WEXITSTATUS(status) != 40))
        code = 10 + (WIFEXITED(status) ? WEXITSTATUS(status) : 0);
    _exit(code);
}

static void *also_live(void *_) { live(0); return _; }

/* There is always one, each for a moment, whom nobody has seen before. */
static void *bear_again(void *_) {
    while (!talk->stop) {
        pid_t child = fork();
        MUST(child >= 0);
        if (!child) {
            sleep_ns(5 * MS);
            _exit(0);
        }
        MUST(waitpid(child, NULL, 0) == child);
    }
    return _;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    quiet_pages = (size_t)option_number("quiet", 8) * MIB / PAGE;
    busy_pages = (size_t)option_number("busy", 2) * MIB / PAGE;
    delay = option_number("pause", 200);
    talk = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(talk != MAP_FAILED);
    for (int who = 0; who < HEIRS; who++) {
        book[who] = mmap(NULL, busy_pages * sizeof **book, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        MUST(book[who] != MAP_FAILED);
    }
    /* One mapping, until it is cut to pieces, for each other ones. */
    busy = mmap(NULL, (busy_pages + quiet_pages) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(busy != MAP_FAILED);
    quiet = busy + busy_pages * PAGE;
    for (size_t page = 0; page < quiet_pages; page++) fill(quiet + page * PAGE, PAGE, 100 + page);
    for (size_t page = 0; page < busy_pages; page++) fill(busy + page * PAGE, PAGE, seed_of(0, page, BORN));

    pid_t children[HEIRS - 2];
    children[0] = bear(1, true); /* whose child is 2 */
    children[1] = bear(3, false);
    pthread_t writer, mother;
    bool passing = option_number("passing", 0);
    MUST(EVENTUALLY(talk->told == HEIRS - 1));
    MUST(!pthread_create(&writer, NULL, also_live, NULL));
    MUST(!passing || !pthread_create(&mother, NULL, bear_again, NULL));
    long before = rollup_of(getpid(), "Pss_Anon");
    for (size_t i = 0; i < COUNT(children); i++) before += rollup_of(children[i], "Pss_Anon");
    ready();
    wait_for_question();

    long now = rollup_of(getpid(), "Pss_Anon");
    for (size_t i = 0; i < COUNT(children); i++) now += rollup_of(children[i], "Pss_Anon");
    long shared = (long)(quiet_pages + HEIRS * busy_pages) * 4, spare = (long)quiet_pages * 2;
    snprintf(extra_report, sizeof extra_report, " pss_before=%ld pss_now=%ld unshared=%ld", before, now,
             (long)(quiet_pages + busy_pages) * 4 * HEIRS);
    if (option_number("keep", 0))
        CHECK(now < shared + spare, "memory takes %ld KiB of at most %ld: it is not shared any more", now, shared);
    talk->stop = 1;
    MUST(!pthread_join(writer, NULL));
    if (passing) MUST(!pthread_join(mother, NULL));
    if (sabotage) quiet[quiet_pages * PAGE / 2] ^= 1;
    CHECK_EQUAL(judge(0), 40, "what the parent finds");
    for (size_t i = 0; i < COUNT(children); i++) check_exit(children[i], 40, "a child that looks at what it has");
    verdict();
}
