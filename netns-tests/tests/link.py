"""Traffic over the link, for link.rs: each verb prints what it saw."""
import hashlib, os, socket, struct, sys, time

verb, address = sys.argv[1], sys.argv[2]
FORCE, SEGMENT, GRO = 33, 103, 104  # SO_RCVBUFFORCE; UDP_SEGMENT, UDP_GRO (linux/udp.h)
PORT = 700


def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, FORCE, 64 << 20)
    return s


def say(*words):
    print(*words, flush=True)


def stream(megabytes):
    block = bytes(i * 7 & 255 for i in range(1 << 16)) + os.urandom(1 << 16)
    for i in range(int(megabytes * 8)):
        yield block[i * 97 % 60000 :][: 1 << 17]


if verb == "echo":  # answer every datagram
    s = udp()
    s.bind((address, PORT))
    say("up")
    while True:
        s.sendto(*s.recvfrom(2000))
elif verb == "ping":  # COUNT round trips, in microseconds, and how many were lost
    s, times = udp(), []
    s.settimeout(float(sys.argv[4]))
    for i in range(int(sys.argv[3])):
        since = time.monotonic()
        try:
            s.connect((address, PORT))
            s.send(b"%d" % i)
            while s.recv(2000) != b"%d" % i:
                pass
            times.append(int((time.monotonic() - since) * 1e6))
        except OSError:  # too late, or the network is unreachable
            pass
    say("ping", len(times), min(times, default=0), sorted(times)[len(times) // 2] if times else 0)
elif verb == "take":  # one TCP stream: its bytes and their digest
    s = socket.create_server((address, PORT))
    say("up")
    c, digest, count = s.accept()[0], hashlib.sha256(), 0
    while chunk := c.recv(1 << 20):
        digest.update(chunk)
        count += len(chunk)
    say("took", count, digest.hexdigest())
elif verb == "give":  # the same stream, how long it took until all was there
    c, digest = socket.create_connection((address, PORT)), hashlib.sha256()
    count, since = 0, time.monotonic()
    for chunk in stream(float(sys.argv[3])):
        digest.update(chunk)
        count += len(chunk)
        c.sendall(chunk)
    c.shutdown(socket.SHUT_WR)
    c.recv(1)
    say("gave", count, digest.hexdigest(), int((time.monotonic() - since) * 1e6))
elif verb == "count":  # numbered datagrams: how many, different ones, after a later one, longest gap
    s = udp()
    s.bind((address, PORT))
    if sys.argv[3:] == ["gro"]:
        s.setsockopt(socket.SOL_UDP, GRO, 1)
    say("up")
    seen, got, behind, newest = set(), 0, 0, -1
    while True:
        data, control, _, peer = s.recvmsg(1 << 16, 100)
        size = struct.unpack("i", control[0][2])[0] if control else len(data)
        for at in range(0, len(data), size):
            number = struct.unpack("<I", data[at : at + 4])[0]
            if number == 0xFFFFFFFF:
                say("count", got, len(seen), behind)
                sys.exit()
            got += 1
            seen.add(number)
            behind += number < newest
            newest = max(newest, number)
elif verb == "number":  # COUNT numbered datagrams of SIZE bytes, BURST of them at once, then the end
    s = udp()
    s.connect((address, PORT))
    count, size, burst = map(int, sys.argv[3:6])
    if burst > 1:
        s.setsockopt(socket.SOL_UDP, SEGMENT, size)
    for at in range(0, count, burst):
        s.send(b"".join(struct.pack("<I", n).ljust(size, b".") for n in range(at, at + burst)))
        time.sleep(0.0005)
    # The link may lose any of these.
    for _ in range(200):
        time.sleep(0.01)
        try:
            s.send(struct.pack("<I", 0xFFFFFFFF))
        except ConnectionRefusedError:
            break
    say("numbered", count)
