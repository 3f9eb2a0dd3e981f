import java.io.FileWriter;
import java.io.IOException;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** A Java virtual machine at work: threads that compute, allocate and wait, a compiler and a collector behind them. */
public class Threads {
    static final int WORKERS = 8, WAITERS = 8;
    static final List<String> complaints = new ArrayList<>();
    static String result;
    static volatile boolean stop;

    /** Hashes its own last hash, a thousand times a millisecond at most, and can do it all again. */
    static class Worker extends Thread {
        final int number;
        volatile long steps;
        byte[] hash;
        List<byte[]> garbage = new ArrayList<>();

        Worker(int number) {
            super("worker-" + number);
            this.number = number;
            this.hash = seed();
        }

        byte[] seed() {
            return new byte[] {(byte) number};
        }

        static byte[] step(byte[] hash) {
            try {
                return MessageDigest.getInstance("SHA-256").digest(hash);
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        }

        @Override
        public void run() {
            while (!stop) {
                for (int i = 0; i < 20; i++) {
                    hash = step(hash);
                    steps++;
                }
                garbage.add(new byte[16 << 10]);
                if (garbage.size() > 200) garbage = new ArrayList<>();
                pause(1);
            }
        }

        boolean isRight() {
            byte[] again = seed();
            for (long i = 0; i < steps; i++) again = step(again);
            return Arrays.equals(again, hash);
        }
    }

    static void pause(long millis) {
        try {
            Thread.sleep(millis);
        } catch (InterruptedException error) {
            complaints.add("a sleep was interrupted");
        }
    }

    static void check(boolean good, String what) {
        if (!good) complaints.add(what);
    }

    static void say(String line) throws IOException {
        try (FileWriter file = new FileWriter(result, true)) {
            file.write(line + "\n");
        }
    }

    public static void main(String[] args) throws Exception {
        boolean sabotage = false;
        for (int i = 0; i < args.length; i++) {
            if (args[i].equals("--result")) result = args[i + 1];
            sabotage |= args[i].equals("--sabotage");
        }
        CountDownLatch question = new CountDownLatch(1);
        sun.misc.Signal.handle(new sun.misc.Signal("USR1"), signal -> question.countDown());

        List<Worker> workers = new ArrayList<>();
        for (int i = 0; i < WORKERS; i++) workers.add(new Worker(i));
        LinkedBlockingQueue<Integer> queue = new LinkedBlockingQueue<>();
        AtomicLong sum = new AtomicLong();
        List<Thread> waiters = new ArrayList<>();
        for (int i = 0; i < WAITERS; i++) {
            waiters.add(new Thread(() -> {
                try {
                    sum.addAndGet(queue.take());
                } catch (InterruptedException error) {
                    complaints.add("a wait was interrupted");
                }
            }, "waiter-" + i));
        }
        workers.forEach(Thread::start);
        waiters.forEach(Thread::start);
        long pid = ProcessHandle.current().pid();
        for (Worker worker : workers) while (worker.steps < 100) pause(1);
        say("READY");

        long beats = 0, gap = 0, last = System.nanoTime();
        long[] before = workers.stream().mapToLong(worker -> worker.steps).toArray();
        while (!question.await(1, TimeUnit.MILLISECONDS)) {
            long now = System.nanoTime();
            check(now >= last, "the clock went back");
            gap = Math.max(gap, now - last);
            last = now;
            beats++;
        }

        check(ProcessHandle.current().pid() == pid, "pid");
        for (int i = 0; i < WORKERS; i++) {
            long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
            while (workers.get(i).steps == before[i] && System.nanoTime() < end) pause(1);
            check(workers.get(i).steps > before[i], workers.get(i).getName() + " stands still");
        }
        stop = true;
        for (Worker worker : workers) {
            worker.join(20_000);
            check(!worker.isAlive(), worker.getName() + " does not end");
        }
        if (sabotage) workers.get(3).hash[0] ^= 1;
        for (Worker worker : workers) check(worker.isRight(), worker.getName() + " computed something else");
        long wanted = 0;
        for (int i = 0; i < WAITERS; i++) {
            queue.add(i + 1);
            wanted += i + 1;
        }
        for (Thread waiter : waiters) {
            waiter.join(20_000);
            check(!waiter.isAlive(), waiter.getName() + " was not woken");
        }
        check(sum.get() == wanted, "the waiters got " + sum + " instead of " + wanted);
        System.gc();
        say(complaints.isEmpty() ? "PASS gap_us=" + gap / 1000 + " beats=" + beats : "FAIL " + String.join("; ", complaints));
        System.exit(complaints.isEmpty() ? 0 : 1);
    }
}
