"""Forbidden actions fail within the sandbox of the agent's unit."""

from __future__ import annotations

import json

import pytest
from tests.systemd.service import PYTHON, UNIT, Service

pytestmark = pytest.mark.timeout(180)

# Runs instead of the agent, and prints the result of each attempt.
PROBE = r"""
import ctypes, json, os, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
def call(result):
    if result in (-1, ctypes.c_void_p(-1).value):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
def write(path):
    with open(path, "w") as file:
        file.write("x")
def run_setuid():
    done = subprocess.run(["/usr/bin/su", "-c", "id -u"], stdin=subprocess.DEVNULL,
                          capture_output=True)
    if done.returncode:
        raise PermissionError("su")
def executable_memory():
    # PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS
    call(libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0)))
def personality():
    call(libc.personality(0x0040000))  # ADDR_NO_RANDOMIZE
attempts = {
    "write /etc/kaywatch": lambda: write("/etc/kaywatch/x"),
    "write /usr": lambda: write("/usr/x"),
    "write /var/lib": lambda: write("/var/lib/x"),
    "write /run/kaywatch": lambda: write("/run/kaywatch/x"),
    "unlink the socket": lambda: os.unlink("/run/kaywatch/ingest.sock"),
    "read /root": lambda: os.listdir("/root"),
    "read /home": lambda: open("/home/marker").read(),
    "read credentials": lambda: os.listdir("/etc/kaywatch/credentials"),
    "read shadow": lambda: open("/etc/shadow").read(),
    "see /tmp": lambda: open("/tmp/marker").read(),
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "open a vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "bind a low port": lambda: socket.create_server(("127.0.0.1", 80)),
    "become root": lambda: os.setuid(0),
    "run a setuid program": run_setuid,
    "make a setuid file": lambda: (write("/var/lib/kaywatch/s"),
                                   os.chmod("/var/lib/kaywatch/s", 0o4755)),
    "make a namespace": lambda: call(libc.unshare(0x10000000)),  # CLONE_NEWUSER
    "mount": lambda: call(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None)),
    "executable memory": executable_memory,
    "another personality": personality,
    "real-time scheduling": lambda: os.sched_setscheduler(
        0, os.SCHED_FIFO, os.sched_param(1)),
    "a kernel setting": lambda: write("/proc/sys/kernel/hostname"),
    "a control group": lambda: os.mkdir("/sys/fs/cgroup/x"),
    "the host's name": lambda: socket.sethostname("x"),
    "the clock": lambda: __import__("time").clock_settime(0, 0),
    "a device": lambda: os.open("/dev/kmsg", os.O_RDWR),
    "the kernel's log": lambda: call(libc.klogctl(3, ctypes.c_buffer(9), 9)),
    "trace another process": lambda: call(libc.ptrace(16, 1, None, None)),
    "signal another process": lambda: os.kill(1, 15),
    # What it has to be able to do.
    "its state": lambda: write("/var/lib/kaywatch/probe"),
    "a TCP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "others' memory": lambda: open("/proc/1/statm").read(),
    "others by pidfd": lambda: os.pidfd_open(1),
}
found = {}
for name, attempt in attempts.items():
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = error.strerror or str(error)
print("PROBE", json.dumps(found), flush=True)
"""

ALLOWED = {"its state", "a TCP socket", "others' memory", "others by pidfd"}


def test_the_sandbox_holds(service: Service) -> None:
    box = service.box
    box.write("/opt/probe.py", PROBE)
    box.run("sh", "-c", "echo seen >/tmp/marker; echo seen >/home/marker")
    # The unit with all of its settings, except for its command.
    service.drop_in(
        "[Service]\nType=oneshot\nRestart=no\nExecStartPre=\nExecReload=\n"
        f"ExecStart=\nExecStart={PYTHON} /opt/probe.py\n"
    )
    box.run("systemctl", "start", "kaywatch.socket", UNIT)

    lines = [e["MESSAGE"] for e in service.journal() if e["MESSAGE"][:5] == "PROBE"]
    document = json.loads(lines[-1].removeprefix("PROBE "))

    assert {name for name, result in document.items() if result == "done"} == ALLOWED
    assert document["write /usr"] == "Read-only file system"
    for family in ("packet", "netlink"):
        output = document[f"open a {family} socket"]
        assert output == "Address family not supported by protocol"
    assert document["become root"] == "Operation not permitted"
    assert document["run a setuid program"] == "su"
    assert document["make a namespace"] == "Operation not permitted"


def test_addresses_can_be_limited_as_the_documentation_has_it(
    service: Service,
) -> None:
    """The drop-in of docs/systemd.md: nothing but this machine is reached."""
    service.box.run("ip", "address", "add", "203.0.113.7/32", "dev", "lo")
    probe = (
        "import socket\n"
        "for host in ('127.0.0.1', '203.0.113.7'):\n"
        "    with socket.create_server((host, 0)) as s:\n"
        "        try:\n"
        "            socket.create_connection(s.getsockname(), 1).close()\n"
        "            print(host, 'reached', flush=True)\n"
        "        except OSError as error:\n"
        "            print(host, type(error).__name__, flush=True)\n"
    )
    service.box.write("/opt/reach.py", probe)
    service.drop_in(
        "[Service]\nType=oneshot\nRestart=no\nExecStartPre=\nExecReload=\n"
        "IPAddressDeny=any\nIPAddressAllow=localhost\n"
        f"ExecStart=\nExecStart={PYTHON} /opt/reach.py\n"
    )
    service.box.run("systemctl", "start", "kaywatch.socket", UNIT)

    output = [entry["MESSAGE"] for entry in service.journal()]
    assert "127.0.0.1 reached" in output
    assert not [line for line in output if line == "203.0.113.7 reached"]
    assert [line for line in output if line.startswith("203.0.113.7 ")]
    service.box.run("ip", "address", "delete", "203.0.113.7/32", "dev", "lo")
