"""A real systemd as PID 1 of a container over this machine's files, for tests.

Strategy: a mount namespace holds a throw-away overlay over `/`, and systemd-nspawn
boots it with a network, processes and a journal of its own; commands run inside by
nsenter. Its files are deleted with it. Its control groups are below this
process's own, under a name of its own, so that boxes side by side don't meet.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import IO

import pytest
from tests.agents import until
from tests.servers import require

# Mounts the overlay, then becomes the container; it ends with its parent.
# CAP_BPF, CAP_NET_ADMIN and the system call bpf: IPAddressDeny= is nothing without.
BOOT = """
set -e
folder=$1 name=$2; shift 2
for group; do echo $$ >"$group/cgroup.procs"; done
mount -t tmpfs -o size=2g none "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay overlay \
    -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
# Where nspawn keeps books: this machine's are not touched.
mount -t tmpfs none /run
cd "$folder/root"
rm -rf etc/systemd/system/*.wants var/log/journal etc/machine-id
# What this machine itself has of ours.
rm -rf etc/kaywatch etc/systemd/system/kaywatch* var/lib/kaywatch var/lib/private
mkdir -p etc/systemd/system opt
echo "$name" | tr -d - >etc/machine-id
exec setpriv --pdeathsig TERM systemd-nspawn --quiet --boot --directory=. \
    --machine="kw-${name%%-*}" --register=no --keep-unit --private-network \
    --link-journal=no --console=pipe \
    --capability=CAP_BPF,CAP_NET_ADMIN --system-call-filter=bpf \
    systemd.unit=basic.target
"""


class Box:
    """One machine that runs systemd."""

    def __init__(self) -> None:
        self._name = str(uuid.uuid4())
        self._folder = Path(tempfile.mkdtemp(prefix=f"kw-box-{os.getpid()}-"))
        self._groups: list[Path] = []
        self._log = self._folder / "console"
        self._process: subprocess.Popen[bytes] | None = None
        self.leader = 0

    def start(self) -> Box:
        """Boot; skip the test where the kernel or this user's rights don't allow it."""
        programs = ("systemd-nspawn", "systemctl", "dbus-daemon", "ip", "setpriv")
        for program in programs:
            require(program)
        if os.geteuid() != 0:
            pytest.skip("a systemd of our own needs root")
        for left in _orphans(Path(tempfile.gettempdir()), "kw-box-"):
            shutil.rmtree(left, ignore_errors=True)
        self._groups = [_group(path, self._name) for path in _hierarchies()]
        # Outside the mount: the folder is covered inside.
        with self._log.open("wb") as log:
            self._process = self._boot(log)
        try:
            self.leader = until(self._find_leader, "systemd runs")
            until(self._booted, "systemd has booted")
        except BaseException:
            self.stop()
            raise
        return self

    def _boot(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                *("unshare", "--mount", "--propagation", "private", "bash", "-c"),
                *(BOOT, "boot", str(self._folder), self._name),
                *map(str, self._groups),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Shut down, and leave nothing behind. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            # The container's manager shuts the box down.
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for group in self._groups:
            _remove_groups(group)
        self._groups = []
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def root(self) -> Path:
        """The box's file system, as seen from outside."""
        return Path(f"/proc/{self.leader}/root")

    def inside(self, *command: str) -> list[str]:
        """Return a command that runs another one in the box, as its root."""
        # Any PATH of this process may lead to home folders, which units don't see.
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        box = ("nsenter", "--target", str(self.leader), "--all")
        return [*box, "env", "--ignore-environment", path, "LC_ALL=C.UTF-8", *command]

    def run(self, *command: str, code: int | None = 0, stdin: str = "") -> str:
        """Run a command inside; return all that it printed."""
        done = subprocess.run(
            self.inside(*command),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=90,
        )
        assert code is None or done.returncode == code, f"{command}: {done.stdout}"
        return done.stdout

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside."""
        self.run("mkdir", "-p", os.path.dirname(path))
        self.run("tee", path, stdin=text)
        self.run("chmod", f"{mode:o}", path)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit."""
        names = ",".join(properties)
        text = self.run("systemctl", "show", f"--property={names}", unit)
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def _find_leader(self) -> int:
        process = self._process
        assert process is not None
        if process.poll() is not None:
            self._refused()
        # nspawn's only child is PID 1.
        path = f"/proc/{process.pid}/task/{process.pid}/children"
        with contextlib.suppress(OSError, IndexError):
            child = int(Path(path).read_text().split()[0])
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
        return 0

    def _booted(self) -> bool:
        state = self.run("systemctl", "is-system-running", code=None).strip()
        return state in {"running", "degraded"}

    def _refused(self) -> None:
        output = self._log.read_text(errors="replace").strip()
        for reason in ("ermission denied", "not permitted", "unshare failed"):
            if reason in output:
                pytest.skip(f"no namespaces or overlays here: {output[-300:]}")
        pytest.fail(f"the box did not boot: {output[-2000:]}")


def _hierarchies() -> list[Path]:
    """Return our control groups in the hierarchies that systemd uses."""
    results = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "name=systemd":
            results.append(Path("/sys/fs/cgroup/systemd") / path.lstrip("/"))
        elif not controllers:
            mixed = Path("/sys/fs/cgroup/unified")
            base = mixed if mixed.exists() else Path("/sys/fs/cgroup")
            results.append(base / path.lstrip("/"))
    return results


def _group(parent: Path, name: str) -> Path:
    for left in _orphans(parent, "kaywatch-"):
        _remove_folders(left)
    group = parent / f"kaywatch-{os.getpid()}-{name}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    return group


def _orphans(parent: Path, prefix: str) -> list[Path]:
    """Return the remains of killed tests, whose boxes ended with them."""
    results = []
    for path in parent.glob(f"{prefix}*-*"):
        owner = path.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            results.append(path)
    return results


def _remove_groups(group: Path) -> None:
    """Remove a control group and its children, once they have no processes."""
    deadline = time.monotonic() + 5
    while group.exists() and time.monotonic() < deadline:
        _remove_folders(group)
        time.sleep(0.02)


def _remove_folders(top: Path) -> None:
    for folder, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
