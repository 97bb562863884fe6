"""The unit files: their content, and the verdict of systemd-analyze."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.servers import require

from kaywatch_agent.cli.service.installer import GROUP
from kaywatch_agent.cli.service.units import Installation, render
from kaywatch_agent.errors import ConfigError

DEPLOYED = Path(__file__).parents[2] / "deploy" / "systemd"
COMMAND = "/opt/kaywatch/bin/kaywatch"
SYSTEM = Installation(COMMAND, listen="127.0.0.1:9477")
USER = replace(SYSTEM, user=True)

# systemd-analyze counts to 100 here, and to 10 in its output.
EXPOSURE = 15


@pytest.fixture
def analyze(tmp_path: Path) -> tuple[str, Path]:
    """systemd-analyze, and a folder of units whose command exists."""
    program = require("systemd-analyze")
    require("systemctl")
    for name, text in render(
        replace(SYSTEM, command=shutil.which("true") or "")
    ).items():
        (tmp_path / name).write_text(text)
    return program, tmp_path


def test_deploy_has_the_units_that_install_writes() -> None:
    for installation, folder in ((SYSTEM, DEPLOYED), (USER, DEPLOYED / "user")):
        result = {p.name: p.read_text() for p in folder.glob("kaywatch*")}
        assert result == render(installation)
    assert (DEPLOYED / "sysusers.conf").read_text() == GROUP


def test_systemd_accepts_the_units_without_warnings(
    analyze: tuple[str, Path],
) -> None:
    program, folder = analyze
    done = subprocess.run(
        [program, "verify", "--man=no", *sorted(map(str, folder.glob("kaywatch*")))],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:/lib/systemd/system"},
    )

    # An unknown key is a warning, not a failure.
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_exposure_of_the_sandbox_is_low(analyze: tuple[str, Path]) -> None:
    program, folder = analyze
    done = subprocess.run(
        [
            *(program, "security", "--offline=yes", f"--threshold={EXPOSURE}"),
            *("--no-pager", str(folder / "kaywatch.service")),
        ],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_notify_reload_is_used_where_systemd_has_it() -> None:
    text = render(replace(SYSTEM, version=253))["kaywatch.service"]

    assert "\nType=notify-reload\n" in text
    assert f"\nExecReload={COMMAND} check --quiet\n" in text
    assert "kill" not in text


def test_units_follow_the_configuration() -> None:
    written = render(
        replace(
            SYSTEM,
            config="/etc/kaywatch/other.toml",
            socket="/run/other/in.sock",
            mode="0666",
            listen="[::1]:9000",
        )
    )

    assert "ListenStream=/run/other/in.sock\n" in written["kaywatch.socket"]
    assert "SocketMode=0666\n" in written["kaywatch.socket"]
    assert "ListenStream=[::1]:9000\n" in written["kaywatch-http.socket"]
    service = written["kaywatch.service"]
    assert f"ExecStart={COMMAND} serve --config /etc/kaywatch/other.toml\n" in service
    first = service.partition("\n")[0]
    assert first.endswith("install --config /etc/kaywatch/other.toml --http-socket")
    assert "kaywatch-http.socket" not in render(replace(SYSTEM, listen=""))


@pytest.mark.parametrize(
    "path", ["/etc/a b", "/etc/%n", "/etc/$x", "/etc/a\nUser=root"]
)
def test_a_path_with_special_characters_is_rejected(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used in a unit"):
        render(replace(SYSTEM, config=path))
