"""Clients that notice every byte that is lost, repeated or changed.

    clients.py ADDRESS COUNT KIND...

COUNT connections of each kind. Of subjects/server.c: `ask` asks and waits, `echo` writes as fast as
it can what it reads back, `download` reads without end. `redis` counts in a redis-server, `http` gets
a page of nginx again and again. Says READY when all have been answered, works until
SIGTERM, and then tells as JSON what went wrong and how long the longest silence was.
"""
import json
import signal
import socket
import struct
import sys
import threading
import time

PORTS = {"redis": 6379, "http": 8080}
stop = threading.Event()
lock = threading.Lock()
wrong, silences, moved = [], [], 0


class Client(threading.Thread):
    def __init__(self, address, mode):
        super().__init__()
        self.mode, self.answered, self.count, self.longest = mode, threading.Event(), 0, 0.0
        self.address = (address, PORTS.get(mode, 7000))
        self.socket = socket.create_connection(self.address)
        if mode not in PORTS:
            self.socket.sendall(b"d" if mode == "download" else b"e")
        self.last = None

    def heard(self):
        now = time.monotonic()
        if self.last is not None:
            self.longest = max(self.longest, now - self.last)
        self.last = now

    def receive(self):
        """Numbers that came, checked to be the next ones; false at the end."""
        data = self.socket.recv(65536)
        self.heard()
        while data and len(data) % 8:
            more = self.socket.recv(8 - len(data) % 8)
            if not more:
                raise ValueError("the end within a number")
            data += more
        for (number,) in struct.iter_unpack("<Q", data):
            if number != self.count:
                raise ValueError(f"{number} came instead of {self.count}")
            self.count += 1
        self.answered.set()
        return bool(data)

    def redis(self):
        replies = self.socket.makefile("rb")
        name = f"count-{self.socket.getsockname()[1]}"
        while not stop.is_set():
            self.socket.sendall(f"INCR {name}\r\n".encode() * 16)
            for _ in range(16):
                self.count += 1
                reply = replies.readline()
                if reply != b":%d\r\n" % self.count:
                    raise ValueError(f"{reply} came instead of {self.count}")
            self.heard()
            self.answered.set()

    def http(self):
        replies = self.socket.makefile("rb")
        page = None
        while not stop.is_set():
            self.socket.sendall(b"GET / HTTP/1.1\r\nHost: it\r\n\r\n")
            head = []
            while not head or head[-1] not in (b"\r\n", b""):
                head.append(replies.readline().lower())
            if b" 200 " not in head[0]:
                raise ValueError(f"{head} came")
            length = next(int(line.split(b":")[1]) for line in head if line.startswith(b"content-length"))
            body = replies.read(length)
            page = page or body
            if len(body) != length or body != page:
                raise ValueError(f"{body} came instead of {page}")
            self.heard()
            self.count += 1
            self.answered.set()
            if b"connection: close\r\n" in head:
                # nginx does so after a thousand requests: that is no loss.
                self.socket = socket.create_connection(self.address)
                replies, self.last = self.socket.makefile("rb"), None

    def ask(self):
        while not stop.is_set():
            self.socket.sendall(struct.pack("<Q", self.count))
            if not self.receive():
                raise ValueError("an end")

    def echo(self):
        sent = [0]

        def write():
            while not stop.is_set():
                numbers = range(sent[0], sent[0] + 1024)
                self.socket.sendall(struct.pack("<1024Q", *numbers))
                sent[0] += 1024
            self.socket.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        while self.receive():
            pass
        writer.join()
        if self.count != sent[0]:
            raise ValueError(f"{self.count} numbers of {sent[0]} came back")

    def download(self):
        while not stop.is_set():
            if not self.receive():
                raise ValueError("an end")

    def run(self):
        global moved
        try:
            getattr(self, self.mode)()
        except (OSError, ValueError) as error:
            with lock:
                wrong.append(f"{self.mode} after {self.count} numbers: {error}")
        self.answered.set()
        self.socket.close()
        with lock:
            silences.append(self.longest)
            moved += 8 * self.count


def main():
    address, count = sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    clients = [Client(address, mode) for mode in sys.argv[3:] for _ in range(count)]
    for client in clients:
        client.start()
    for client in clients:
        client.answered.wait()
    print("READY", flush=True)
    stop.wait()
    for client in clients:
        client.join()
    print(json.dumps({"wrong": wrong, "silence_ms": round(max(silences) * 1000), "bytes": moved}), flush=True)


main()
