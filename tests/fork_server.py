"""Forks a `kaywatch` command for each request of `tests/forks.py`.

    python fork_server.py FD

FD is a socket. Each message on it has the files for the exit status, stdin, stdout and
stderr, and as JSON the arguments, the environment, the folder, and whether stdin is to
be the controlling terminal.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import termios
import threading
from typing import Any


def import_all() -> None:
    """Import all modules of the agent."""
    gc.disable()  # it would take a sixth of the time
    import kaywatch_agent

    for module in pkgutil.walk_packages(kaywatch_agent.__path__, "kaywatch_agent."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    # Garbage collections in forks need not visit, and so copy, these objects.
    gc.freeze()
    gc.enable()


def serve(requests: socket.socket) -> None:
    """Fork for each request; return in each fork, and exit when there are no more."""
    statuses: dict[int, int] = {}  # where to report the end of each fork
    ended, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    requests.send(b".")
    while True:
        ready, _, _ = select.select([requests, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            report_ends(statuses)
        if requests in ready:
            message, files, _, _ = socket.recv_fds(requests, 1_000_000, 4)
            if not message:
                sys.exit()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                close(requests.detach(), ended, waker, *statuses.values())
                take_over(json.loads(message), *files)
                return
            statuses[pid] = files[0]
            os.write(files[0], b"%10d" % pid)
            close(*files[1:])


def report_ends(statuses: dict[int, int]) -> None:
    """Report the exit codes of the forks that have ended."""
    for pid in list(statuses):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            file = statuses.pop(pid)
            os.write(file, b"%d" % os.waitstatus_to_exitcode(status))
            close(file)


def take_over(request: dict[str, Any], status: int, *streams: int) -> None:
    """Take over the files, the environment, the folder and the arguments."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    close(status, *streams)
    if request["has_terminal"]:
        # Resizing and Ctrl-Z then send signals.
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = request["arguments"]


def run_command() -> None:
    """Run the command, and exit as Python does, but without clearing all modules.

    A fork would copy every object of the server for that: most commands take five times
    as long. A traceback, or an error when the output is flushed, is left to Python.
    """
    try:
        importlib.import_module("kaywatch_agent.__main__").main()
    except SystemExit as end:
        code = 0 if end.code is None else end.code
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def close(*files: int) -> None:
    for file in files:
        os.close(file)


if __name__ == "__main__":
    # Else the folder of this file is where modules are looked for first.
    sys.path[0] = ""
    import_all()
    serve(socket.socket(fileno=int(sys.argv[1])))
    run_command()
