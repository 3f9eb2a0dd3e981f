"""A pool of forked workers that answer from a table which their parent made before them and none has a copy of:
what the interpreter counts in the objects that they use is all they write. The parent makes more meanwhile."""
import argparse, gc, multiprocessing, os, signal, sys, time, zlib

parser = argparse.ArgumentParser()
for option in ("--result", "--scratch", "--shared"):
    parser.add_argument(option, required=True)
parser.add_argument("--sabotage", action="store_true")
arguments = parser.parse_args()

WORKERS, ROWS, USED = 3, 16000, 1500
complaints = []
table = []


def check(good, what):
    if not good:
        complaints.append(what)


def say(line):
    with open(arguments.result, "a") as result:
        result.write(line + "\n")


def memory(pids):
    """What all take, in KiB; a page that several have counts once."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            total += next(int(line.split()[1]) for line in rollup if line.startswith("Pss_Anon:"))
    return total


def answer(row):
    return row, zlib.crc32(table[row]), os.getpid()


def main():
    asked = []
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(True))
    table.extend(os.urandom(2500) for _ in range(ROWS))
    sums = [zlib.crc32(row) for row in table]
    gc.collect()
    gc.freeze()
    pool = multiprocessing.get_context("fork").Pool(WORKERS)

    def right(rows):
        answers = pool.map(answer, rows, chunksize=max(1, len(rows) // WORKERS // 4))
        check(all(sums[row] == said for row, said, _ in answers), "a worker's table differs")
        return {pid for _, _, pid in answers}

    workers = set()
    while len(workers) < WORKERS:
        workers |= right(range(USED))
    more, count = [], 0
    before = memory([os.getpid(), *workers])
    say("READY")
    beats, gap, last = 0, 0, time.monotonic_ns()
    while not asked:
        workers |= right(range(beats % USED, min(beats % USED + 24, USED)))
        more.append(os.urandom(40000))
        count += 1
        if len(more) > 40:
            more.clear()
        now = time.monotonic_ns()
        beats, gap, last = beats + 1, max(gap, now - last), now

    now = memory([os.getpid(), *workers])
    check(len(workers) == WORKERS, f"{len(workers)} workers have answered")
    check(now < before * 3 // 2, f"memory takes {now} KiB, was {before}: it is not shared any more")
    if arguments.sabotage:
        sums[ROWS // 2] ^= 1
    right(range(ROWS))
    check([zlib.crc32(row) for row in table] == sums, "the parent's table differs")
    say("FAIL " + "; ".join(complaints) if complaints else f"PASS gap_us={gap // 1000} beats={beats} pss_before={before} pss_now={now}")
    pool.close()
    pool.join()
    sys.exit(1 if complaints else 0)


main()
