/* Memory whose shape keeps changing, private, shared, and of a file: `threads N` (2) map, unmap, move, grow, shrink, protect, drop,
 * write and fork at random, `ops N` (4) times a millisecond, from `seed N` (1). Each knows what every
 * byte of its memory must be; children see a copy of it, change it, and judge it too.
 */
#include "subject.h"

enum { REGIONS = 48, LONGEST = 64, THREADS = 16 };

struct region {
    char *at; /* NULL: free */
    size_t pages;
    bool shared, readonly, of_file;
    uint32_t id, rounds[LONGEST]; /* round 0: all zeros, as in the file */
};

struct churn {
    struct region regions[REGIONS];
    uint64_t dice;
    uint32_t next_id;
    pid_t child;
    uint64_t done, forks;
    pthread_t thread;
};
static struct churn *churns;
static volatile bool stop;
static long per_ms;
static int zeros = -1; /* a file of them, larger than any region, which both hosts see */

static uint64_t roll(struct churn *c, uint64_t sides) { return scramble(c->dice++) % sides; }

static bool right(const struct region *r, size_t page) {
    static const char empty[PAGE];
    const char *at = r->at + page * PAGE;
    if (!r->rounds[page]) return !memcmp(at, empty, PAGE);
    return differs(at, PAGE, ((uint64_t)r->id << 32 | page << 24) + r->rounds[page]) < 0;
}
static void rewrite(struct region *r, size_t page) {
    fill(r->at + page * PAGE, PAGE, ((uint64_t)r->id << 32 | page << 24) + ++r->rounds[page]);
}
static void look(const struct region *r, size_t page, const char *who) {
    CHECK(right(r, page), "%s: page %zu of %zu of region %u (%s, round %u) differs", who, page, r->pages, r->id,
          r->shared ? "shared" : r->of_file ? "of a file" : "private", r->rounds[page]);
}

static void map_one(struct churn *c, struct region *r) {
    size_t pages = 1 + roll(c, LONGEST / 2);
    bool shared = !roll(c, 4), of_file = !shared && !roll(c, 3);
    char *at = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
                    (of_file ? 0 : MAP_ANONYMOUS) | (shared ? MAP_SHARED : MAP_PRIVATE), of_file ? zeros : -1, 0);
    if (at == MAP_FAILED) return complain("mmap: %s", strerror(errno));
    *r = (struct region){.at = at, .pages = pages, .shared = shared, .of_file = of_file, .id = ++c->next_id};
    for (size_t i = 0; i < pages; i++) if (roll(c, 4)) rewrite(r, i);
}

static void resize(struct churn *c, struct region *r) {
    size_t pages = 1 + roll(c, LONGEST);
    if (r->shared || r->readonly) return;
    char *at = mremap(r->at, r->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
    if (at == MAP_FAILED) return complain("mremap: %s", strerror(errno));
    for (size_t i = r->pages; i < pages; i++) r->rounds[i] = 0;
    r->at = at, r->pages = pages;
}

/* To a place of our choosing, over what is there: a reservation that nobody else has. */
static void move(struct region *r) {
    if (r->shared) return;
    char *to = mmap(NULL, r->pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (to == MAP_FAILED) return complain("mmap: %s", strerror(errno));
    if (mremap(r->at, r->pages * PAGE, r->pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
        return complain("mremap to a place: %s", strerror(errno));
    r->at = to;
}

static void drop(struct churn *c, struct region *r) {
    size_t from = roll(c, r->pages), count = 1 + roll(c, r->pages - from);
    if (r->readonly) return;
    if (madvise(r->at + from * PAGE, count * PAGE, r->shared ? MADV_REMOVE : MADV_DONTNEED))
        return complain("madvise: %s", strerror(errno));
    for (size_t i = from; i < from + count; i++) r->rounds[i] = 0;
}

/* Freed pages may be there or not, so they are written at once, which keeps them. */
static void release(struct churn *c, struct region *r) {
    size_t page = roll(c, r->pages);
    if (r->shared || r->readonly) return;
    madvise(r->at + page * PAGE, PAGE, MADV_FREE);
    rewrite(r, page);
}

static void protect(struct region *r) {
    r->readonly = !r->readonly;
    if (mprotect(r->at, r->pages * PAGE, r->readonly ? PROT_READ : PROT_READ | PROT_WRITE))
        complain("mprotect: %s", strerror(errno));
}

/* The child has a copy of all that is private; what it does to that must stay its own. */
static void spawn(struct churn *c) {
    int status = 0;
    if (c->child && waitpid(c->child, &status, WNOHANG) != c->child) return;
    CHECK(!c->child || (WIFEXITED(status) && !WEXITSTATUS(status)), "a child ended with status 0x%x", status);
    c->forks++;
    c->child = fork();
    if (c->child) return;
    complaint_count = 0;
    for (int round = 0; round < 3; round++) {
        for (struct region *r = c->regions; r < c->regions + REGIONS; r++) {
            if (!r->at || r->shared) continue;
            for (size_t i = 0; i < r->pages; i++) look(r, i, "child");
            if (!r->readonly) rewrite(r, roll(c, r->pages));
            if (!roll(c, 8)) munmap(r->at, r->pages * PAGE), r->at = NULL;
        }
        sleep_ns(5 * MS);
    }
    if (complaint_count) say(complaints), say("\n");
    _exit(complaint_count ? 1 : 0);
}

static void act(struct churn *c) {
    struct region *r = &c->regions[roll(c, REGIONS)];
    uint64_t what = roll(c, 100);
    c->done++;
    if (!r->at) map_one(c, r);
    else if (what < 3) munmap(r->at, r->pages * PAGE), r->at = NULL;
    else if (what < 8) resize(c, r);
    else if (what < 12) move(r);
    else if (what < 16) drop(c, r);
    else if (what < 19) release(c, r);
    else if (what < 22) protect(r);
    else if (what < 23) spawn(c);
    else if (what < 60) look(r, roll(c, r->pages), "parent");
    else if (!r->readonly) rewrite(r, roll(c, r->pages));
}

static void *live(void *argument) {
    struct churn *c = argument;
    while (!stop) {
        for (long i = 0; i < per_ms; i++) act(c);
        sleep_ns(MS);
    }
    return NULL;
}

int main(int argc, char **argv) {
    begin(argc, argv);
    long threads = option_number("threads", 2);
    per_ms = option_number("ops", 4);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/zeros-%d", shared_dir, getpid());
    MUST((zeros = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) >= 0 && !ftruncate(zeros, 2 * LONGEST * PAGE));
    MUST(threads > 0 && threads <= THREADS && (churns = calloc((size_t)threads, sizeof *churns)));
    for (long i = 0; i < threads; i++) {
        churns[i].dice = scramble((uint64_t)option_number("seed", 1) * THREADS + (uint64_t)i);
        /* Something to move from the first moment on. */
        for (int n = 0; n < 400; n++) act(&churns[i]);
        MUST(!pthread_create(&churns[i].thread, NULL, live, &churns[i]));
    }
    ready();
    wait_for_question();
    stop = true;

    unsigned long long done = 0, forks = 0;
    for (long i = 0; i < threads; i++) {
        struct churn *c = &churns[i];
        pthread_join(c->thread, NULL);
        if (c->child) check_exit(c->child, 0, "the last child");
        struct region *last = NULL;
        for (struct region *r = c->regions; r < c->regions + REGIONS; r++) {
            if (!r->at) continue;
            if (!r->readonly) last = r;
            if (sabotage && last == r) last->at[17] ^= 1, sabotage = false;
            for (size_t page = 0; page < r->pages; page++) look(r, page, "end");
        }
        done += c->done, forks += c->forks;
    }
    snprintf(extra_report, sizeof extra_report, " ops=%llu forks=%llu", done, forks);
    verdict();
}
