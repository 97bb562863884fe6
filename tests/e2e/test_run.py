"""`kaywatch run` instruments unchanged applications, in real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import venv
import zipapp
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import msgpack
import pytest
from tests.agents import DEADLINE, Agent

from kaywatch import wire

APP = """
import sys
import sysconfig
from pocketflow import Flow, Node

class Load(Node):
    def post(self, shared, prep_res, exec_res):
        return "loaded"

class Show(Node):
    pass

def work(times=1):
    for _ in range(times):
        load = Load()
        load - "loaded" >> Show()
        Flow(start=load).run({})

if __name__ == "__main__":
    work(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
"""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def app(tmp_path: Path) -> str:
    (tmp_path / "app.py").write_text(APP)
    return str(tmp_path / "app.py")


@pytest.fixture
def kaywatch(installed: str) -> str:
    """The command as the wheel installs it."""
    return str(Path(installed).parent / "kaywatch")


@pytest.fixture
def run(agent: Agent, kaywatch: str, installed: str, tmp_path: Path) -> Run:
    """Run a command with `kaywatch run`, with the wheel's Python first in PATH."""

    def run(
        *command: str, options: tuple[str, ...] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [kaywatch, "run", *options, "--", *command],
            env={**agent.environment, "PATH": search_path(installed), **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def search_path(python: str) -> str:
    return os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])


def fine(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def without(agent: Agent, *command: str, **environment: str) -> str:
    """Return the command's output without `kaywatch run`."""
    return fine(
        subprocess.run(
            command,
            env={**agent.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
    )


# -- instrumented processes ----------------------------------------------------------


def test_a_script_is_watched(agent: Agent, run: Run, app: str) -> None:
    fine(run("python", app, "5"))

    assert agent.executions() == {"Load": 5, "Show": 5}
    (client,) = agent.clients()
    assert (client["service"], client["tags"]) == ("app", {})
    assert client["state"] == "ended"
    graph = agent.get("/api/v1/graphs/Flow[Load]/stats")
    assert graph["total_executions"] == 5
    assert graph["transition_counts"] == {"Load->loaded": 5, "Show->default": 5}


def test_options_identify_the_process(agent: Agent, run: Run, app: str) -> None:
    fine(
        run(
            *("python", app),
            options=("--service", "shop", "--tag", "zone=b", "--tag=tier=web"),
            KAYWATCH_TAGS="zone=a, team=blue",
        )
    )

    (client,) = agent.clients()
    assert client["service"] == "shop"
    assert client["tags"] == {"zone": "b", "team": "blue", "tier": "web"}


def test_the_endpoint_is_an_option(agent: Agent, run: Run, app: str) -> None:
    elsewhere = {"KAYWATCH_ENDPOINT": "unix:///nonexistent/ingest.sock"}
    fine(run("python", app, options=("--endpoint", agent.endpoint), **elsewhere))

    assert agent.executions() == {"Load": 1, "Show": 1}


def test_a_module_and_a_package_are_watched(
    agent: Agent, run: Run, app: str, tmp_path: Path
) -> None:
    (tmp_path / "shop").mkdir()
    shutil.copy(app, tmp_path / "shop" / "__main__.py")

    fine(run("python", "-m", "app", "2"))
    fine(run("python", "-m", "shop", "3"))

    assert agent.executions() == {"Load": 5, "Show": 5}
    assert {client["service"] for client in agent.clients()} == {"app", "shop"}


@pytest.mark.parametrize("shebang", ["#!/bin/sh\n", ""])
def test_python_started_by_a_shell_script_is_instrumented(
    agent: Agent, run: Run, app: str, tmp_path: Path, shebang: str
) -> None:
    script = tmp_path / "script.sh"
    script.write_text(f'{shebang}python app.py "$1"\npython app.py 3\n')
    script.chmod(0o755)

    fine(run("./script.sh", "4"))

    assert agent.executions() == {"Load": 7, "Show": 7}


def test_a_script_of_another_folder_with_a_shebang_is_watched(
    agent: Agent, run: Run, app: str, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "shop"
    program.parent.mkdir()
    program.write_text("#!/usr/bin/env python\n" + APP)
    program.chmod(0o755)

    fine(run("shop", PATH=f"{program.parent}:{search_path(agent.python)}"))

    assert agent.executions() == {"Load": 1, "Show": 1}


def test_a_zipapp_is_watched(agent: Agent, run: Run, app: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(app, source / "__main__.py")
    zipapp.create_archive(source, tmp_path / "shop.pyz")

    fine(run("python", "shop.pyz", "2"))

    assert agent.executions() == {"Load": 2, "Show": 2}
    assert agent.clients()[0]["service"] == "shop"


def test_a_framework_in_a_zip_is_watched(
    agent: Agent, run: Run, app: str, tmp_path: Path
) -> None:
    import pocketflow

    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(app, source / "__main__.py")
    shutil.copytree(Path(pocketflow.__file__).parent, source / "pocketflow")
    zipapp.create_archive(source, tmp_path / "shop.pyz")

    fine(run("python", "shop.pyz", "2"))

    assert agent.executions() == {"Load": 2, "Show": 2}


def test_subprocesses_are_watched(
    agent: Agent, run: Run, app: str, tmp_path: Path
) -> None:
    (tmp_path / "parent.py").write_text(
        "import subprocess, sys, app\n"
        "app.work(2)\n"
        "subprocess.run([sys.executable, 'app.py', '3'], check=True)\n"
    )

    fine(run("python", "parent.py"))

    assert agent.executions() == {"Load": 5, "Show": 5}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_are_watched(
    agent: Agent, run: Run, app: str, tmp_path: Path, method: str
) -> None:
    (tmp_path / "parent.py").write_text(
        f"""
import multiprocessing, app
if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    children = [context.Process(target=app.work, args=(10,)) for _ in range(3)]
    for child in children: child.start()
    for child in children: child.join()
    assert all(child.exitcode == 0 for child in children)
    with context.Pool(2) as pool:
        pool.map(app.work, [1] * 20)
        pool.close()
        pool.join()
"""
    )

    fine(run("python", "parent.py"))

    assert agent.executions() == {"Load": 50, "Show": 50}


def test_a_prefork_server_is_watched(
    agent: Agent, kaywatch: str, installed: str, app: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(
        """
import app
app.work(1)
def serve(environ, start_response):
    app.work(1)
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'fine']
"""
    )
    (tmp_path / "hooks.py").write_text(
        # gunicorn forgets a SIGTERM that reaches a worker while it starts.
        "import os\n"
        "def post_worker_init(worker): os.write(1, b'ready\\n')\n"
        "def when_ready(server):\n"
        "    print(*server.LISTENERS[0].sock.getsockname(), flush=True)\n"
    )
    server = agent.start_process(
        *(kaywatch, "run", "--service=shop", installed, "-m", "gunicorn"),
        *("--preload", "--workers=3", "--bind=127.0.0.1:0", "--config=hooks.py"),
        *("--no-control-socket", "--log-level=critical", "shop:serve"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    assert server.stdout is not None
    host, port = server.stdout.readline().split()
    assert [server.stdout.readline() for _ in range(3)] == ["ready\n"] * 3
    for _ in range(30):
        with urlopen(f"http://{host}:{port}/", timeout=DEADLINE) as answer:
            assert answer.read() == b"fine"
    server.terminate()
    assert server.wait(DEADLINE) == 0

    assert agent.executions() == {"Load": 31, "Show": 31}
    assert {client["service"] for client in agent.clients()} == {"shop"}


def test_a_call_of_instrument_besides_is_harmless(
    agent: Agent, run: Run, app: str, tmp_path: Path
) -> None:
    (tmp_path / "both.py").write_text(
        "import kaywatch\n"
        "assert kaywatch.instrument() == []\n"
        "import app\n"
        "assert kaywatch.instrument() == ['pocketflow']\n"
        "app.work(3)\n"
    )

    fine(run("python", "both.py"))

    assert agent.executions() == {"Load": 3, "Show": 3}


@pytest.mark.parametrize("before", [True, False])
def test_uninstrument_undoes_it(
    agent: Agent, run: Run, app: str, tmp_path: Path, before: bool
) -> None:
    steps = ["kaywatch.uninstrument()", "import app"]
    (tmp_path / "undone.py").write_text(
        "import kaywatch, sys\n"
        "from kaywatch._instrument.frameworks import instrument_when_imported\n"
        "instrument_when_imported()\n"
        + "\n".join(steps if before else reversed(steps))
        + "\nassert not hasattr(app.Node._run, '__wrapped__')\n"
        "assert not any('kaywatch' in type(f).__module__ for f in sys.meta_path)\n"
        "app.work(3)\n"
    )

    fine(run("python", "undone.py"))

    assert agent.clients() == []


def test_a_framework_that_was_imported_already_is_watched(
    agent: Agent, run: Run, app: str, tmp_path: Path
) -> None:
    # As by a .pth file, which is read before sitecustomize.
    code = (
        "import pocketflow, runpy, os, sys\n"
        "sys.path.insert(0, os.environ['PYTHONPATH'].split(':')[0])\n"
        "sys.modules.pop('sitecustomize', None)\n"  # Debian's Python has one
        "try: import sitecustomize\n"
        "except ImportError: pass\n"
        "runpy.run_path('app.py', run_name='__main__')\n"
    )

    fine(run("python", "-E", "-c", code))

    assert agent.executions() == {"Load": 1, "Show": 1}


# -- uninstrumented processes ---------------------------------------------------------


def test_switched_off_it_only_runs_the_command(
    agent: Agent, run: Run, app: str, tmp_path: Path
) -> None:
    off = {"KAYGRAPH_COLLECT_METRICS": "false", "PYTHONPATH": "/somewhere"}
    fine(run("python", app, **off))

    assert agent.clients() == []
    assert fine(run("sh", "-c", "echo $PYTHONPATH", **off)) == "/somewhere\n"


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_an_isolated_python_runs_unwatched(
    agent: Agent, run: Run, app: str, flag: str
) -> None:
    import pocketflow

    path = str(Path(pocketflow.__file__).parent.parent)
    code = f"import sys; sys.path.append({path!r}); sys.path.append('.'); import app"

    assert fine(run("python", flag, "-c", code + "; app.work(); print(1)")) == "1\n"
    assert agent.clients() == []


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A Python of another environment, without kaywatch."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    return str(tmp_path / "bare" / "bin" / "python")


def test_an_environment_without_kaywatch_is_reported(
    agent: Agent, run: Run, bare: str, tmp_path: Path
) -> None:
    (tmp_path / "pocketflow.py").write_text("print('imported')")
    done = run(bare, "-c", "import pocketflow")

    assert (done.returncode, done.stdout) == (0, "imported\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"kaywatch run: {bare} has no kaywatch")

    program = tmp_path / "program"
    program.write_text(f"#!{bare}\nprint(1)")
    program.chmod(0o755)
    done = run("./program")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", line + "\n")


def test_further_below_an_environment_without_kaywatch_just_runs(
    agent: Agent, run: Run, bare: str, tmp_path: Path
) -> None:
    (tmp_path / "pocketflow.py").write_text("print('imported')")
    script = f'{bare} -c "import pocketflow, sys; sys.exit(7)"'

    done = run("sh", "-c", script)

    assert (done.returncode, done.stdout, done.stderr) == (7, "imported\n", "")


def test_a_kaywatch_that_can_not_be_imported_breaks_nothing(
    agent: Agent, run: Run, app: str, tmp_path: Path
) -> None:
    (tmp_path / "kaywatch.py").write_text("1 / 0")

    done = run("python", app)

    assert done.returncode == 0
    assert done.stderr.startswith("cannot instrument\nTraceback")


# -- what the application sees -------------------------------------------------------

LOOK = """
import json, os, sys
print(json.dumps([sorted(sys.modules), sys.path, sys.argv, sys.flags, dict(os.environ),
                  [str(finder) for finder in sys.meta_path], sys.warnoptions]))
"""


def test_a_process_without_a_framework_looks_as_ever(
    agent: Agent, run: Run, installed: str
) -> None:
    plain = json.loads(without(agent, installed, "-c", LOOK, "x", "--", "-y"))
    watched = json.loads(fine(run(installed, "-c", LOOK, "x", "--", "-y")))

    finder, *others = watched.pop(5)
    assert finder.startswith("<sitecustomize.FrameworkFinder")
    assert others == plain.pop(5)
    folder, *rest = watched[4].pop("PYTHONPATH").split(os.pathsep)
    assert os.path.samefile(os.path.dirname(folder), kaywatch_folder(installed))
    assert rest == []
    plain[4].pop("PYTHONPATH", None)
    plain[4]["PATH"] = watched[4]["PATH"]
    assert watched == plain


def kaywatch_folder(python: str) -> Path:
    (result,) = Path(python).parent.parent.glob("lib/python*/site-packages/kaywatch")
    return result


def test_the_environment_is_the_same_but_for_pythonpath(
    agent: Agent, kaywatch: str
) -> None:
    # Without a locale, Python sets LC_CTYPE for itself and its children.
    bare = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": "a::b:"}
    shown = [
        fine(subprocess.run(command, env=bare, capture_output=True, text=True))
        for command in (["env"], [kaywatch, "run", "--", "env"])
    ]
    plain, watched = (dict(e.split("=", 1) for e in s.splitlines()) for s in shown)

    folder, rest = watched.pop("PYTHONPATH").split(os.pathsep, 1)
    assert os.path.basename(folder) == "_run"
    assert rest == plain.pop("PYTHONPATH")
    assert watched == plain


def test_running_it_twice_over_is_running_it_once(
    agent: Agent, run: Run, kaywatch: str, app: str
) -> None:
    fine(run(kaywatch, "run", kaywatch, "run", "--", "python", app))
    path = fine(run(kaywatch, "run", "--", "sh", "-c", "echo $PYTHONPATH"))

    assert agent.executions() == {"Load": 1, "Show": 1}
    assert os.pathsep not in path


def test_it_becomes_the_command(agent: Agent, kaywatch: str) -> None:
    script = "echo $$; read line; echo got $line; kill -TERM $$"
    child = agent.start_process(
        *(kaywatch, "run", "sh", "-c", script),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    printed, _ = child.communicate("a line\n", timeout=DEADLINE)

    assert printed == f"{child.pid}\ngot a line\n"
    assert child.returncode == -signal.SIGTERM


def test_signals_that_python_ignores_reach_the_command(run: Run, agent: Agent) -> None:
    show = ["grep", "Sig[BIC]", "/proc/self/status"]

    assert fine(run(*show)) == without(agent, *show)


def test_the_exit_code_is_the_command_s(run: Run) -> None:
    assert run("python", "-c", "import sys; sys.exit(42)").returncode == 42


SITE = "import sys\nsys.customized = __name__, {}\n"


@pytest.mark.parametrize("place", ["PYTHONPATH", "site-packages"])
def test_a_sitecustomize_of_the_application_s_is_imported(
    agent: Agent, kaywatch: str, installed: str, tmp_path: Path, place: str
) -> None:
    python, folder = installed, tmp_path / "own"
    if place == "site-packages":
        if Path(sysconfig.get_path("stdlib"), "sitecustomize.py").exists():
            pytest.skip("this Python has one of its own, which comes first")
        venv.create(tmp_path / "own", with_pip=False, symlinks=True)
        python = str(tmp_path / "own" / "bin" / "python")
        (folder,) = tmp_path.glob("own/lib/python*/site-packages")
        (folder / "kaywatch.pth").write_text(str(kaywatch_folder(installed).parent))
    else:
        folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE.format(1))
    look = "import sys, sitecustomize as s; print(sys.customized, s.__file__)"
    environment = {**agent.environment, "PYTHONPATH": str(folder)}
    if place == "site-packages":
        del environment["PYTHONPATH"]

    shown = [
        fine(
            subprocess.run(
                [*before, python, "-c", look],
                env=environment,
                capture_output=True,
                text=True,
            )
        )
        for before in ([], [kaywatch, "run", "--"])
    ]

    assert shown[0] == f"('sitecustomize', 1) {folder}/sitecustomize.py\n"
    assert shown[1] == shown[0]


@pytest.mark.parametrize("error", ["1 / 0", "import nothing_of_the_kind"])
def test_a_sitecustomize_that_fails_does_so_as_ever(
    agent: Agent, run: Run, app: str, tmp_path: Path, error: str
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(error)
    # This must not affect `kaywatch run`, which is a Python process itself.
    command = ["sh", "-c", 'PYTHONPATH="$PYTHONPATH:site" exec python app.py']
    plain = subprocess.run(
        command,
        env={**agent.environment, "PATH": search_path(agent.python)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    watched = run(*command)

    assert (watched.returncode, plain.returncode) == (0, 0)
    assert watched.stderr == plain.stderr != ""
    assert agent.executions() == {"Load": 1, "Show": 1}


# -- mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--", "no-such-command"], 127, "no-such-command: command not found"),
        (["--", "/no/such/command"], 127, "/no/such/command: command not found"),
        (["--", "/etc"], 126, "/etc: cannot be executed: [Errno 13]"),
        (["--", "/etc/passwd"], 126, "/etc/passwd: cannot be executed: [Errno 13]"),
        ([], 2, "expected a command"),
        (["--"], 2, "expected a command"),
        (["--servise", "x", "true"], 2, "--servise"),
        (["--tag", "zone", "true"], 2, "expected KEY=VALUE"),
        (["--tag", "zone=a,b=c", "true"], 2, "without a comma"),
        (["--endpoint", "smoke://signal", "true"], 2, "unknown scheme 'smoke'"),
    ],
)
@pytest.mark.parametrize("entry", ["kaywatch", "kaywatch_agent"])
def test_a_mistake_gets_a_clear_line_and_the_shell_s_exit_code(
    installed: str, arguments: list[str], code: int, message: str, entry: str
) -> None:
    done = subprocess.run(
        [installed, "-m", entry, "run", *arguments], capture_output=True, text=True
    )

    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_script_without_its_interpreter_can_not_be_executed(
    run: Run, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)

    done = run("./script")

    assert done.returncode == 126
    assert "cannot be executed" in done.stderr


def test_help_lists_the_run_command(installed: str) -> None:
    for arguments, message in (
        (["-m", "kaywatch_agent", "--help"], "kaywatch run -- python app.py"),
        (["-m", "kaywatch_agent", "run", "--help"], "--tag KEY=VALUE"),
        (["-m", "kaywatch", "run", "--help"], "python -m kaywatch run [options]"),
    ):
        assert message in fine(
            subprocess.run([installed, *arguments], capture_output=True, text=True)
        )
    done = subprocess.run([installed, "-m", "kaywatch"], capture_output=True, text=True)
    assert done.returncode != 0 and "python -m kaywatch run" in done.stderr


def test_a_zip_file_with_kaywatch_in_it_is_recorded(
    agent: Agent, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, module in [("kaywatch", wire), ("msgpack", msgpack)]:
        shutil.copytree(
            Path(str(module.__file__)).parent,
            source / name,
            ignore=shutil.ignore_patterns("*.so", "__pycache__"),
        )
    code = 'import kaywatch\nwith kaywatch.execution("g", "n"):\n    pass\n'
    (source / "__main__.py").write_text(code)
    archive = tmp_path / "shop.pyz"
    zipapp.create_archive(source, archive)
    # -S: without the installed kaywatch
    process = agent.start_process(agent.python, "-S", "-I", str(archive))
    assert process.wait(DEADLINE) == 0
    assert agent.executions() == {"n": 1}
    (client,) = agent.clients()
    assert client["service"] == "shop"
