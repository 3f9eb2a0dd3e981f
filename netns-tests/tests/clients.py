"""Clients of subjects/server.c that notice every byte that is lost, repeated or changed.

    clients.py ADDRESS COUNT

COUNT connections of each kind: one that asks and waits, one that writes as fast as it can what it
reads back, and one that reads without end. Says READY when all have been answered, works until
SIGTERM, and then tells as JSON what went wrong and how long the longest silence was.
"""
import json
import signal
import socket
import struct
import sys
import threading
import time

PORT = 7000
stop = threading.Event()
lock = threading.Lock()
wrong, silences, moved = [], [], 0


class Client(threading.Thread):
    def __init__(self, address, mode):
        super().__init__()
        self.mode, self.answered, self.count, self.longest = mode, threading.Event(), 0, 0.0
        self.socket = socket.create_connection((address, PORT))
        self.socket.sendall(b"d" if mode == "download" else b"e")
        self.last = None

    def receive(self):
        """Numbers that came, checked to be the next ones; false at the end."""
        data = self.socket.recv(65536)
        now = time.monotonic()
        if self.last is not None:
            self.longest = max(self.longest, now - self.last)
        self.last = now
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
    clients = [Client(address, mode) for mode in ["ask", "echo", "download"] for _ in range(count)]
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
