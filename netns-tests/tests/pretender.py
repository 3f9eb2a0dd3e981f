#!/usr/bin/env python3
"""Pretends to be qmig: moves nothing but the command line, which it starts again over there.

Lets the harness be tested before, and without, the real one. The phases it knows for QMIG_FAULT are
`listening` (restore) and `handoff` (dump, before the old copy is killed).
"""
import json, os, signal, socket, subprocess, sys


def option(name):
    return sys.argv[sys.argv.index(name) + 1]


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def phase(side, name):
    wanted = os.environ.get("QMIG_FAULT", "").split(":")
    if wanted[:2] == [side, name]:
        if wanted[2] == "fail":
            say("error", code="injected", runs_on="source")
            sys.exit(3)
        os.kill(os.getpid(), signal.SIGKILL if wanted[2] == "kill" else signal.SIGSTOP)


def restore():
    listener = socket.create_server(("::", int(option("--listen").rsplit(":", 1)[1])), family=socket.AF_INET6, dualstack_ipv6=True)
    with open(option("--ticket-file"), "w") as ticket:
        ticket.write("ticket")
    say("listening", address=option("--listen"))
    phase("destination", "listening")
    connection, _ = listener.accept()
    pid, *command = json.loads(connection.makefile().readline())
    # Children of this program alone get new pids here, and the next one is the subject.
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(pid - 1))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert child.pid == pid
    connection.sendall(b"staged\n")
    say("running", pid=pid)
    sys.exit(child.wait())


def dump():
    pid = int(option("--tree"))
    assert open(option("--ticket-file")).read() == "ticket"
    host, port = option("--to").rsplit(":", 1)
    connection = socket.create_connection((host, int(port)))
    command = open(f"/proc/{pid}/cmdline").read().split("\0")[:-1]
    phase("source", "handoff")
    connection.sendall(json.dumps([pid, *command]).encode() + b"\n")
    assert connection.makefile().readline() == "staged\n"
    os.kill(pid, signal.SIGKILL)
    say("report", outcome="moved")


{"restore": restore, "dump": dump}[sys.argv[1]]()
