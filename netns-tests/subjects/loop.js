// What a node program of some size holds: timers, a worker, a forked child, a server on a unix socket
// with a client, a watched folder.
const fs = require('fs'), net = require('net'), path = require('path');
const { fork } = require('child_process');
const { Worker, isMainThread, parentPort } = require('worker_threads');

if (!isMainThread) {
    let count = 0;
    setInterval(() => count++, 2);
    parentPort.on('message', (word) => parentPort.postMessage({ word, count }));
} else if (process.send) {
    let count = 0;
    setInterval(() => count++, 2);
    process.on('message', (word) => process.send({ word, count, pid: process.pid }));
} else {
    main().catch((error) => { console.error(error); process.exit(3); });
}

async function main() {
    const option = (name) => process.argv[process.argv.indexOf(name) + 1];
    const result = option('--result'), shared = option('--shared'), scratch = option('--scratch');
    const sabotage = process.argv.includes('--sabotage');
    const say = (line) => fs.appendFileSync(result, line + '\n');
    const complaints = [];
    const check = (good, what) => { if (!good) complaints.push(what); };
    const within = (promise, what) => Promise.race([
        promise,
        new Promise((_, no) => setTimeout(() => no(new Error(what + ' does not answer')), 20000)),
    ]);

    let beats = 0, last = performance.now(), gap = 0;
    setInterval(() => {
        const now = performance.now();
        gap = Math.max(gap, now - last);
        last = now;
        beats++;
    }, 2);
    const worker = new Worker(__filename), child = fork(__filename);
    const ask = (whom, word) => within(new Promise((yes) => {
        whom.once('message', yes);
        (whom.postMessage || whom.send).call(whom, word);
    }), word);
    const socket = path.join(scratch, `loop-${process.pid}`);
    const server = net.createServer((end) => end.on('data', (data) => end.write('echo ' + data)));
    await new Promise((yes) => server.listen(socket, yes));
    const client = net.connect(socket);
    await new Promise((yes) => client.on('connect', yes));
    const echo = (word) => within(new Promise((yes) => {
        client.once('data', (data) => yes(String(data)));
        client.write(word);
    }), 'the echo');
    const folder = path.join(shared, 'folder');
    fs.mkdirSync(folder);
    const watcher = fs.watch(folder);
    const before = [await ask(worker, 'worker'), await ask(child, 'child')];
    check(await echo('one') === 'echo one', 'no echo');
    const ballast = Array.from({ length: 200000 }, (_, i) => ({ i, text: 'row ' + i }));
    const ready = beats;
    gap = 0;

    process.on('SIGUSR1', async () => {
        try {
            if (sabotage) ballast[77].i = 78;
            check(ballast.every((row, i) => row.i === i && row.text === 'row ' + i), 'the heap differs');
            const after = [await ask(worker, 'worker'), await ask(child, 'child')];
            after.forEach((now, at) => check(now.count > before[at].count, `${now.word} counts no more`));
            check(after[1].pid === child.pid, 'the child has another pid');
            check(await echo('two') === 'echo two', 'the echo differs');
            const seen = within(new Promise((yes) => watcher.once('change', (_, name) => yes(name))), 'the folder');
            fs.writeFileSync(path.join(folder, 'new'), '');
            check(await seen === 'new', 'another name was seen');
            check(beats > ready, 'the timer has stopped');
        } catch (error) {
            complaints.push(error.message);
        }
        child.kill();
        const word = complaints.length ? `FAIL ${complaints.length}: ${complaints.join('; ')}`
            : `PASS gap_us=${Math.round(gap * 1000)} beats=${beats}`;
        say(word);
        process.exit(complaints.length ? 1 : 0);
    });
    say('READY');
}
