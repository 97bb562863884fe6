"""The interface matches its OpenAPI document and docs/http.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from tests.agent.web.conftest import fill
from tests.agent.web.serving import Served, serving
from tests.metrics import declared_metrics, samples

from kaywatch_agent.web.config import HttpConfig
from kaywatch_agent.web.responses import EncodedResponse
from kaywatch_agent.web.routes import ENDPOINTS

DOCUMENTATION = Path(__file__).parents[4] / "docs" / "http.md"


@pytest.fixture(scope="module")
def document(shop: Served) -> dict[str, Any]:
    answer: dict[str, Any] = shop.get("/openapi.json")
    return answer


@pytest.fixture(scope="module")
def written() -> str:
    return DOCUMENTATION.read_text(encoding="utf-8")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def names(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_every_route_is_in_the_document_and_no_other(document: dict[str, Any]) -> None:
    described = {
        (path, method): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(described) == {(r.path, r.method.lower()) for r in ENDPOINTS}
    for operation in described.values():
        assert {"200", "400", "405", "500"} <= set(operation["responses"])
    operations = [operation["operationId"] for operation in described.values()]
    assert len(set(operations)) == len(operations)
    assert "nodes_node_stats" in operations


def test_every_schema_in_the_document_is_sound(document: dict[str, Any]) -> None:
    for shape in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(shape)
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation["parameters"]:
                jsonschema.Draft202012Validator.check_schema(parameter["schema"])
                # A reference within a parameter is resolved in the whole document.
                assert "$ref" not in parameter["schema"]
                assert parameter["description"]
                assert parameter["required"] or parameter["in"] == "query"


def test_answers_have_all_of_their_keys_always(document: dict[str, Any]) -> None:
    asked = [route.body for route in ENDPOINTS if route.body is not None]
    _, bodies = msgspec.json.schema_components(asked)
    answers = document["components"]["schemas"].keys() - bodies.keys()
    assert {"NodeStats", "AlertView", "FailureRecord", "ClientDetails"} <= answers
    for name in answers:
        shape = document["components"]["schemas"][name]
        if "properties" in shape:  # else an enumeration
            assert shape["required"] == list(shape["properties"]), name
            assert shape["additionalProperties"] is False, name
            assert not any("default" in of for of in shape["properties"].values())


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/health", "/health"),
        ("/api/v1/export?window=5m", "/api/v1/export"),
        ("/api/v1/nodes", "/api/v1/nodes"),
        ("/api/v1/nodes/enrich/stats", "/api/v1/nodes/{node}/stats"),
        ("/api/v1/graphs", "/api/v1/graphs"),
        ("/api/v1/graphs/checkout/stats", "/api/v1/graphs/{graph}/stats"),
        ("/api/v1/query?metric=p95", "/api/v1/query"),
        ("/api/v1/query?metric=orders&step=1h", "/api/v1/query"),
        ("/api/v1/failures", "/api/v1/failures"),
        ("/api/v1/clients", "/api/v1/clients"),
        ("/api/v1/nodes/x/stats", "/api/v1/nodes/{node}/stats"),
        ("/api/v1/query", "/api/v1/query"),
        ("/api/v1/alerts", "/api/v1/alerts"),
        ("/api/v1/alerts/none", "/api/v1/alerts/{id}"),
        ("/api/v1/rules", "/api/v1/rules"),
        ("/api/v1/rules/success_rate_min", "/api/v1/rules/{rule}"),
        ("/api/v1/rules/none", "/api/v1/rules/{rule}"),
        ("/api/v1/rule_metrics", "/api/v1/rule_metrics"),
        ("/api/v1/silences?state=active", "/api/v1/silences"),
    ],
)
def test_responses_match_the_openapi_document(
    shop: Served, document: dict[str, Any], path: str, template: str
) -> None:
    answer = shop.ask(path)
    responses = document["paths"][template]["get"]["responses"]
    response = responses[str(answer.status)]
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].split("/")[-1]]

    hold_to(answer.json, response["content"]["application/json"]["schema"], document)


def test_updates_are_what_the_document_says(
    shop: Served, document: dict[str, Any]
) -> None:
    body = shop.ask("/api/v1/live?limit=1").body.decode()

    data = re.findall("^data: (.*)$", body, re.MULTILINE)
    assert len(data) == 1
    reference = {"$ref": "#/components/schemas/LiveUpdate"}
    hold_to(json.loads(data[0]), reference, document)


def hold_to(value: object, shape: dict[str, Any], document: dict[str, Any]) -> None:
    whole = {**shape, "components": document["components"]}
    jsonschema.Draft202012Validator(whole).validate(value)


# -- docs/http.md --------------------------------------------------------------------


def test_every_route_is_documented_with_its_parameters(written: str) -> None:
    rows = {
        names(cells(line)[0])[0]: sorted(names(cells(line)[1]))
        for line in written.splitlines()
        if re.match(r"\| `([A-Z]+ )?/", line)
    }

    assert rows == {
        route.path if route.method == "GET" else f"{route.method} {route.path}": sorted(
            field.encode_name for field in msgspec.structs.fields(route.parameters)
        )
        for route in ENDPOINTS
    }


def parts(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.StructType]:
    """Yield the structs that a type consists of."""
    if isinstance(kind, msgspec.inspect.StructType):
        yield kind
        for field in kind.fields:
            yield from parts(field.type)
    for name in ("type", "item_type", "value_type"):
        if isinstance(inner := getattr(kind, name, None), msgspec.inspect.Type):
            yield from parts(inner)
    for inner in (*getattr(kind, "types", ()), *getattr(kind, "item_types", ())):
        yield from parts(inner)


# The types of all JSON responses, and of their parts.
SHAPES = sorted(
    {
        part.cls
        for route in ENDPOINTS
        for response in (route.response, *route.events.values())
        if response is not EncodedResponse
        for part in parts(msgspec.inspect.type_info(response))
    },
    key=lambda kind: kind.__name__,
)


def test_every_key_is_documented(written: str) -> None:
    section = names(written.partition("## Keys")[2].partition("## Metrics")[0])
    for kind in SHAPES:
        for field in msgspec.structs.fields(kind):
            assert field.encode_name in section, f"{kind}.{field.encode_name}"


def test_every_parameter_is_documented(written: str) -> None:
    section = written.partition("## Keys")[0]
    table = {
        name
        for line in section.splitlines()
        if line.startswith("| `") and not re.match(r"\| `([A-Z]+ )?/", line)
        for name in names(cells(line)[0])
    }
    known = {
        field.encode_name
        for route in ENDPOINTS
        for field in msgspec.structs.fields(route.parameters)
    }
    assert table == known


def test_every_metric_is_documented_with_its_type_and_labels(
    shop: Served, written: str
) -> None:
    documented = {
        names(cells(line)[0])[0]: (cells(line)[1], set(names(cells(line)[2])))
        for line in written.splitlines()
        if re.match(r"\| `kay(graph|watch)_", line)
    }
    body = shop.ask("/metrics").body.decode()
    exposed = dict(re.findall(r"^# TYPE (\S+) (\S+)$", body, re.MULTILINE))

    ours = {name: metric.type for name, metric in declared_metrics().items()}
    assert {name: kind for name, (kind, _) in documented.items()} == exposed | ours
    samples = re.findall(
        r"^(\w+?)(?:_bucket|_sum|_count)?\{(.*)\} ", body, re.MULTILINE
    )
    for name, labels in samples:
        matches = set(re.findall(r'(?:^|,)(\w+)="', labels)) - {"le"}
        _, expected = documented[name]
        assert expected <= matches, name
        if "metric" not in expected:
            assert expected == matches, name


# -- schemathesis --------------------------------------------------------------------

# Random examples of each operation, beside all boundary values; `make fuzz` has 100.
EXAMPLES = os.environ.get("KAYWATCH_TEST_EXAMPLES", "3")
EXAMPLES_WITH_TOKENS = os.environ.get("KAYWATCH_TEST_EXAMPLES", "1")

# All checks there are, on every path that ends by itself, but:
# A start after the end, or too many points, is no matter of a schema; and prefixItems
# are taken for an error by schemathesis 4.32, so that these responses are validated by
# the test above. Nor is an end before the beginning.
CHECKS = """
[[operations]]
include-path-regex = "/api/v1/(query|heatmap)"
checks.positive_data_acceptance.enabled = false
checks.response_schema_conformance.enabled = false

[[operations]]
include-method = "POST"
checks.positive_data_acceptance.enabled = false
"""


def schemathesis(folder: Path, *arguments: str) -> None:
    """Run the program in a folder, where its configuration is and its examples go."""
    program = Path(sys.executable).parent / "schemathesis"
    done = subprocess.run(
        [
            *(str(program), "run", *arguments),
            *("--seed", "1", "--no-color"),
            *("--suppress-health-check", "too_slow"),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.timeout(300)
def test_schemathesis_finds_no_fault(shop: Served, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CHECKS)

    schemathesis(
        tmp_path,
        f"{shop.url}/openapi.json",
        *("--exclude-path-regex", "/api/v1/(live|events)"),
        *("--max-examples", EXAMPLES),
    )


TOKEN = "a-token-for-schemathesis"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "token",
    # `test_every_path_but_the_public_needs_a_token` tries each path without one.
    [TOKEN, pytest.param("a-token-that-is-wrong", marks=pytest.mark.long)],
)
def test_schemathesis_finds_no_fault_where_tokens_are_asked_for(
    token: str, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text(TOKEN)
    (tmp_path / "tokens").chmod(0o600)
    config = HttpConfig("127.0.0.1:0", admin_tokens_file=str(tmp_path / "tokens"))
    with serving(config=config) as served:
        fill(served)
        described = served.ask("/openapi.json", {"Authorization": f"Bearer {TOKEN}"})
        (tmp_path / "openapi.json").write_bytes(described.body)
        schemathesis(
            tmp_path,
            *(str(tmp_path / "openapi.json"), "--url", served.url),
            *("--header", f"Authorization: Bearer {token}"),
            # Whether a token is accepted or not doesn't depend on the parameters, which
            # the test above varies.
            *("--phases", "fuzzing", "--max-examples", EXAMPLES_WITH_TOKENS),
            *("--exclude-checks", "positive_data_acceptance,ignored_auth"),
            *("--exclude-path-regex", "/api/v1/(live|events|query|heatmap)"),
        )
        answered = samples(served.source.telemetry, "kaywatch_http_requests_total")
        public = {"/health", *(e.path for e in ENDPOINTS if e.is_public)}
        statuses = {status for path, status in answered if path not in public}
    # Every request without the token was refused.
    if token != TOKEN:
        assert statuses - {"200"} <= {"400", "401", "403", "415"}
        assert "404" not in statuses
