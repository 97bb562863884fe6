"""deploy/docker and deploy/kubernetes: valid, unprivileged, and with working parts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import kubernetes_validate
import pytest
import yaml
from tests.agents import Agent, free_port
from tests.conftest import ROOT

from kaywatch_agent.cli.commands.serve import serve
from kaywatch_agent.cli.main import kaywatch
from kaywatch_agent.config import parse
from kaywatch_agent.notify.chat_config import SlackConfig
from kaywatch_agent.notify.config_check import find_warnings
from kaywatch_agent.runtime.host import HOST_VARIABLE

DOCKER = ROOT / "deploy" / "docker"
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
# The oldest version that is still supported, and a newer one.
VERSIONS = ("1.34", "1.37")
USER = 10001
KUBERNETES = ROOT / "docs" / "tutorials" / "kubernetes.md"
BLOCKS: dict[str, list[str]] = {}
for kind, text in re.findall(
    r"^```(\w+)\n(.*?)^```", KUBERNETES.read_text(), re.MULTILINE | re.DOTALL
):
    BLOCKS.setdefault(kind, []).append(text)


def documents() -> Iterator[Any]:
    for path in MANIFESTS:
        yield from yaml.safe_load_all(path.read_text())


def agents() -> list[dict[str, Any]]:
    """Return the containers of agents."""
    return [
        container
        for document in documents()
        if document["kind"] != "ConfigMap"
        for container in document["spec"]["template"]["spec"]["containers"]
        if container["name"] == "kaywatch"
    ]


def health_check() -> list[str]:
    """Return the command of the Dockerfile."""
    text = (DOCKER / "Dockerfile").read_text()
    command = re.search(r"HEALTHCHECK .*CMD (\[.*\])", text)
    assert command is not None
    return list(yaml.safe_load(command[1]))


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(version: str) -> None:
    kinds = set()
    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)
        kinds.add(document["kind"])
    assert kinds == {"ConfigMap", "DaemonSet", "StatefulSet"}


def test_a_wrong_manifest_is_not_valid() -> None:
    (document, *_) = (each for each in documents() if each["kind"] == "DaemonSet")
    document["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)


def test_agents_have_no_privileges_and_bounded_resources() -> None:
    assert len(agents()) == len(MANIFESTS)
    for container in agents():
        security = container["securityContext"]
        assert security["runAsUser"] == USER
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        folders = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert folders == {"/run/kaywatch", "/var/lib/kaywatch", "/etc/kaywatch"}
    text = (DOCKER / "Dockerfile").read_text()
    assert re.findall(r"(?m)^USER (.+)$", text) == [f"{USER}:{USER}"]


def test_the_name_of_the_host_outlives_the_container() -> None:
    """Otherwise each new container would begin new series, at old totals."""
    compose = yaml.safe_load((DOCKER / "compose.yml").read_text())
    assert compose["services"]["agent"]["hostname"]
    for document in documents():
        if document["kind"] == "DaemonSet":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            (variable,) = container["env"]
            assert variable["name"] == HOST_VARIABLE
            node = variable["valueFrom"]["fieldRef"]
            assert node == {"fieldPath": "spec.nodeName"}


def test_commands_and_configurations_are_those_of_this_version() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yml").read_text())
    text = (DOCKER / "Dockerfile").read_text()
    started = re.search(r"(?m)^CMD (\[.*\])$", text)
    assert started is not None
    commands = [container["args"] for container in agents()]
    commands += [compose["services"]["agent"]["command"], yaml.safe_load(started[1])]
    for name, *arguments in commands:
        assert name == "serve"
        serve.make_context(name, list(arguments))
    configurations = [(DOCKER / "kaywatch.toml").read_text()]
    for document in documents():
        if document["kind"] == "ConfigMap":
            configurations += document["data"].values()
    for configuration in configurations:
        config = parse(configuration)
        assert config.ingest.mode == "0666"
        assert len(config.export.remote_write) == 1


def provisioned(kind: str) -> tuple[Any, str]:
    """Return a file that Grafana reads at its start, and where it is in the image."""
    (path,) = (DOCKER / "grafana" / kind).glob("*.yml")
    return yaml.safe_load(path.read_text()), f"/etc/grafana/provisioning/{kind}"


def test_grafana_has_the_dashboards_and_their_data_source() -> None:
    services = yaml.safe_load((DOCKER / "compose.yml").read_text())["services"]
    mounts = {}
    for volume in services["grafana"]["volumes"]:
        source, target, mode = volume.split(":")
        assert mode == "ro"
        mounts[target] = (DOCKER / source).resolve()

    sources, folder = provisioned("datasources")
    assert mounts[folder] == DOCKER / "grafana" / "datasources"
    (source,) = sources["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    url = urlsplit(source["url"])
    assert url.hostname in services["grafana"]["depends_on"]
    (port,) = services[str(url.hostname)]["ports"]
    assert port.endswith(f":{url.port}")

    dashboards, folder = provisioned("dashboards")
    assert mounts[folder] == DOCKER / "grafana" / "dashboards"
    (provider,) = dashboards["providers"]
    files = mounts[provider["options"]["path"]]
    assert files == ROOT / "deploy" / "grafana"
    home = Path(
        services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    )
    assert str(home.parent) == provider["options"]["path"]
    assert (files / home.name).is_file()
    for path in files.glob("*.json"):
        # The variable selects the data source by its type; the default one is first.
        variable, *_ = json.loads(path.read_text())["templating"]["list"]
        assert (variable["type"], variable["query"]) == ("datasource", source["type"])


def check_compose(file: Path) -> subprocess.CompletedProcess[str]:
    """Validate a file against the schema of the Compose Specification."""
    schema = ("--builtin-schema", "vendor.compose-spec")
    command = (sys.executable, "-m", "check_jsonschema", *schema, str(file))
    return subprocess.run(command, capture_output=True, text=True)


def test_the_compose_file_is_valid() -> None:
    done = check_compose(DOCKER / "compose.yml")
    assert done.returncode == 0, done.stdout


def test_a_wrong_compose_file_is_not_valid(tmp_path: Path) -> None:
    text = (DOCKER / "compose.yml").read_text()
    file = tmp_path / "compose.yml"
    file.write_text(text.replace("depends_on", "depend_on", 1))
    done = check_compose(file)
    assert done.returncode == 1
    assert "$.services.agent" in done.stdout and "depend_on" in done.stdout


def test_the_compose_file_names_what_it_has() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yml").read_text())
    volumes = {
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
        if not volume.startswith(".")
    }
    assert volumes == compose["volumes"].keys()
    for service in compose["services"].values():
        assert set(service.get("depends_on", ())) <= compose["services"].keys()


def test_probes_ask_for_the_health_of_the_agent(agent: Agent) -> None:
    commands = [health_check()]
    for container in agents():
        for probe in ("readinessProbe", "livenessProbe"):
            commands.append(container[probe]["exec"]["command"])
    (command,) = {tuple(" ".join(each).replace('"', "'").split()) for each in commands}
    python, option, *code = command
    assert (python, option) == ("python", "-c")
    program = " ".join(code)
    assert program.count("http://127.0.0.1:9477") == 1
    for url, is_healthy in (
        (agent.url, True),
        (f"http://127.0.0.1:{free_port()}", False),
    ):
        asked = program.replace("http://127.0.0.1:9477", url)
        done = subprocess.run([sys.executable, "-c", asked], capture_output=True)
        assert (done.returncode == 0) is is_healthy


def sidecar() -> dict[str, Any]:
    """Return the StatefulSet, as it is after the tutorial."""
    (document,) = (each for each in documents() if each["kind"] == "StatefulSet")
    pod = document["spec"]["template"]["spec"]
    ((mount,), (volume,)) = (yaml.safe_load(text) for text in BLOCKS["yaml"])
    (container,) = (each for each in pod["containers"] if each["name"] == "kaywatch")
    container["volumeMounts"].append(mount)
    pod["volumes"].append(volume)
    return dict(document)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifest_of_the_tutorial_is_valid(version: str) -> None:
    kubernetes_validate.validate(sidecar(), version, strict=True)


def test_the_agent_reads_the_secret_that_the_tutorial_mounts(tmp_path: Path) -> None:
    pod = sidecar()["spec"]["template"]["spec"]
    (mount,) = (
        mount
        for container in pod["containers"]
        for mount in container["volumeMounts"]
        if mount["name"] == "secrets"
    )
    (volume,) = (each for each in pod["volumes"] if each["name"] == "secrets")
    secret = volume["secret"]
    created = f"secret generic {secret['secretName']} --from-file=slack"
    assert created in KUBERNETES.read_text()
    url = "https://hooks.slack.com/services/T0/B0/x"
    (tmp_path / "slack").write_text(url)
    (tmp_path / "slack").chmod(secret["defaultMode"])
    (text,) = BLOCKS["toml"]
    assert mount["mountPath"] in text

    notify = parse(text.replace(mount["mountPath"], str(tmp_path))).notify

    receiver = notify.receivers["ops"]
    assert isinstance(receiver, SlackConfig) and receiver.webhook_url is not None
    assert receiver.webhook_url.read() == url
    assert find_warnings(notify.receivers, notify.heartbeat) == []


def test_the_commands_of_the_tutorial_are_those_of_this_version() -> None:
    pod = f"{sidecar()['metadata']['name']}-0"
    ran = []
    for line in "".join(BLOCKS["sh"]).splitlines():
        where, found, command = line.partition(" -- kaywatch ")
        if found:
            assert where == f"kubectl exec {pod} --container kaywatch"
            name, *arguments = command.split()
            with click.Context(kaywatch) as context:
                found_command = kaywatch.get_command(context, name)
                assert found_command is not None
                found_command.make_context(name, arguments)
            ran.append(command)
    assert ran == ["status", "doctor", "notify test ops"]
