"""What a python program of some size holds: threads that wait in every way the library knows, forked
children on pipes and on a queue, a program on pipes, memory and a lock shared with the children."""
import argparse, ctypes, multiprocessing, os, queue, signal, subprocess, sys, threading, time

parser = argparse.ArgumentParser()
for option in ("--result", "--scratch", "--shared"):
    parser.add_argument(option, required=True)
parser.add_argument("--sabotage", action="store_true")
arguments = parser.parse_args()

CHILDREN, THREADS = 3, 6
complaints = []


def check(good, what):
    if not good:
        complaints.append(what)


def say(line):
    with open(arguments.result, "a") as result:
        result.write(line + "\n")


# ---- a child: counts in memory of its own and in shared memory, and answers on its pipe ----


def child(number, pipe, jobs, shared):
    own = 0
    stop = threading.Event()

    def count():
        nonlocal own
        while not stop.is_set():
            with shared.get_lock():
                shared.value += 1
            own += 1
            time.sleep(0.002)

    counter = threading.Thread(target=count)
    counter.start()
    job = jobs.get()  # sleeps in a semaphore and a pipe until the parent has moved
    word = pipe.recv()
    stop.set()
    counter.join()
    pipe.send((number, os.getpid(), os.getppid(), word, job, own))
    pipe.close()


def main():
    asked = []
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(True))
    context = multiprocessing.get_context("fork")
    shared, jobs, children = context.Value(ctypes.c_int64, 0), context.Queue(), []
    for number in range(CHILDREN):
        here, there = context.Pipe()
        one = context.Process(target=child, args=(number, there, jobs, shared))
        one.start()
        there.close()
        children.append((one, here))
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    # ---- threads: two that hand a number to and fro, the others wait ----
    left, right, turns = queue.Queue(), queue.Queue(), [0]
    stop, gate, opened, woken = threading.Event(), threading.Condition(), [False], []

    def hand(source, target):
        while True:
            number = source.get()
            if number is None:
                target.put(None)
                return
            turns[0] += 1
            time.sleep(0.001)
            target.put(None if stop.is_set() else number + 1)

    def wait():
        with gate:
            while not opened[0]:
                gate.wait()
        woken.append(threading.get_native_id())

    threads = [threading.Thread(target=hand, args=pair) for pair in ((left, right), (right, left))]
    threads += [threading.Thread(target=wait) for _ in range(THREADS - 2)]
    for thread in threads:
        thread.start()
    left.put(0)
    memory = [os.urandom(1 << 16) for _ in range(64)]
    sums = [hash(block) for block in memory]
    pid, ids = os.getpid(), {thread.native_id for thread in threads}
    while turns[0] < 10 or shared.value < 10:
        time.sleep(0.001)

    say("READY")
    turns_before, shared_before, then = turns[0], shared.value, time.monotonic()
    beats, gap, last = 0, 0, time.monotonic_ns()
    while not asked:
        time.sleep(0.001)
        now = time.monotonic_ns()
        beats, gap, last = beats + 1, max(gap, now - last), now

    # ---- everything must be as it was, and go on ----
    check(os.getpid() == pid, "pid")
    check(time.monotonic() >= then, "the monotonic clock went back")
    check({thread.native_id for thread in threads if thread.is_alive()} == ids, "threads are gone")
    check([hash(block) for block in memory] == sums, "memory differs")
    deadline = time.monotonic() + 20
    while (turns[0] == turns_before or shared.value == shared_before) and time.monotonic() < deadline:
        time.sleep(0.001)
    check(turns[0] > turns_before, "the two threads stand still")
    check(shared.value > shared_before, "the children stand still")

    if arguments.sabotage:
        shared.value += 1
    stop.set()
    with gate:
        opened[0] = True
        gate.notify_all()
    for thread in threads:
        thread.join(20)
        check(not thread.is_alive(), f"{thread.name} does not end")
    check(len(woken) == THREADS - 2, "waiting threads were not woken")

    for number in range(CHILDREN):
        jobs.put(number)
    counted, taken = 0, set()
    for number, (one, pipe) in enumerate(children):
        pipe.send(f"word {number}")
        said, their_pid, their_parent, word, job, own = pipe.recv()
        check((said, their_pid, their_parent, word) == (number, one.pid, pid, f"word {number}"), f"child {number}: {said} {their_pid} {their_parent} {word}")
        counted += own
        taken.add(job)
        one.join(20)
        check(one.exitcode == 0, f"child {number} ended with {one.exitcode}")
    check(taken == set(range(CHILDREN)), f"jobs taken: {taken}")
    check(shared.value == counted, f"shared memory says {shared.value}, the children {counted}")
    echo, _ = cat.communicate(b"to and fro", timeout=20)
    check(echo == b"to and fro" and cat.returncode == 0, f"cat said {echo!r} and {cat.returncode}")

    say("FAIL " + "; ".join(complaints) if complaints else f"PASS gap_us={gap // 1000} beats={beats}")
    jobs.close()
    jobs.join_thread()
    sys.exit(1 if complaints else 0)


main()
