"""Each request has a form, and whatever is sent instead, the dashboard works afterwards."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard.conftest import Dashboard, Start

#: Every request with a body, and one that is right.
CHART: dict[str, Any] = {"series_preferences": [], "series_names": []}
FORMS: dict[str, Any] = {
    "POST runs/archive": {"run_uuids": []},
    "POST runs/unarchive": {"run_uuids": []},
    "PUT runs": {"run_uuids": []},
    "POST run/{uuid}": {"name": "mine", "favourite_configs": []},
    "POST user": {"user": {"theme": "light", "name": "", "projects": []}},
    "POST auth/user": {"device": {}, "referrer": ""},
    "POST metrics/{uuid}": {"get_all": True},
    "POST metrics/preferences/{uuid}": {**CHART, "chart_type": 0, "step_range": [-1, 1.5], "smooth_value": 0.5},
    "POST custom_metrics/{uuid}": {"id": "none", "name": "", "preferences": CHART},
    "POST custom_metrics/{uuid}/create": {"name": "mine", "description": ""},
    "POST custom_metrics/{uuid}/delete": {"id": "none"},
    "POST compare/metrics/{uuid}?current={uuid}": {"get_all": False},
    "POST compare/preferences/{uuid}": {**CHART, "base_experiment": "", "base_series_preferences": []},
    "POST logs/stdout/{uuid}": {"page": -1},
}

READ = [
    "run/{uuid}",
    "run/status/{uuid}",
    "metrics/preferences/{uuid}",
    "custom_metrics/{uuid}",
    "compare/preferences/{uuid}",
]

#: Requests of labml's app that the page does not need here.
REMOVED = [
    "POST default/track?run_uuid=0123456789&labml_version=0.5",
    "POST default/computer",
    "GET sessions/null",
    "PUT sessions",
    "GET computer/0",
    "PUT run/{uuid}/add",
    "PUT run/{uuid}/claim",
    "GET session/0",
    "POST session/0",
    "PUT session/0/claim",
    "GET session/status/0",
    "POST logs/stdout/{uuid}/opt",
    "POST process/0",
    "GET cpu/0",
]


def status(dashboard: Dashboard, request: str, uuid: str, body: str | None = None) -> int:
    method, path = request.format(uuid=uuid).split(" ")
    found, _, answer = dashboard.request(method, f"/api/v1/{path}", body)
    assert found < 400 or found == 405 or b"\n" not in answer.strip()
    return found


def assert_works(dashboard: Dashboard, run: Path) -> None:
    """All that the page loads."""
    assert run.name in {entry["run_uuid"] for entry in dashboard.get("runs/null?folder_name=all")["runs"]}
    for path in READ:
        assert dashboard.get(path.format(uuid=run.name)) is not None
    for request, body in FORMS.items():
        if request.startswith(("POST metrics/{uuid}", "POST compare/metrics", "POST auth")):
            assert status(dashboard, request, run.name, json.dumps(body)) == 200


def test_the_requests_of_the_page(run: Path, start: Start) -> None:
    with start() as dashboard:
        for request, body in FORMS.items():
            assert status(dashboard, request, run.name, json.dumps(body)) == 200, request
            if "{uuid}" in request:
                for uuid in ("none", f"{run.name}_0", "..%2f..", "%00", "%ff"):
                    assert status(dashboard, request, uuid, json.dumps(body)) in {404, 405}, (request, uuid)
        for path in READ:
            for uuid in ("none", f"{run.name}_1", "%ff"):
                assert status(dashboard, f"GET {path}", uuid) == 404, path
        for request in ("POST compare/metrics/{uuid}", "POST compare/metrics/{uuid}?current=none"):
            assert status(dashboard, request, run.name, '{"get_all": true}') == 404
        body = json.dumps({**FORMS["POST compare/preferences/{uuid}"], "base_experiment": "none"})
        assert status(dashboard, "POST compare/preferences/{uuid}", run.name, body) == 404
        for request in REMOVED:
            assert status(dashboard, request, run.name, "{}") in {404, 405}, request
        assert_works(dashboard, run)


def test_a_choice_without_names_of_metrics(run: Path, start: Start) -> None:
    """The page sends one for as many metrics as there were when it was loaded."""
    with start() as dashboard:
        body = json.dumps({"series_preferences": [1]})
        before = dashboard.get(f"metrics/preferences/{run.name}")
        assert status(dashboard, "POST metrics/preferences/{uuid}", run.name, body) == 400
        assert dashboard.get(f"metrics/preferences/{run.name}") == before


def junk(generator: random.Random, depth: int = 0) -> Any:
    """A random JSON value."""
    kind = generator.randrange(9 if depth < 3 else 7)
    if kind == 7:
        return [junk(generator, depth + 1) for _ in range(generator.randrange(4))]
    if kind == 8:
        names = [
            "get_all",
            "run_uuids",
            "series_preferences",
            "base_experiment",
            "name",
            "id",
            "preferences",
            "user",
            "x",
        ]
        return {generator.choice(names): junk(generator, depth + 1) for _ in range(generator.randrange(4))}
    numbers = [generator.randrange(-3, 4), 10**400, 1e308, float("nan"), float("-inf")]
    return [None, True, False, generator.choice(numbers), 0.5, "", "\ud800\0\u202e"][kind]


def mutated(generator: random.Random, value: Any) -> Any:
    """The value with something in it replaced, removed or added."""
    if not isinstance(value, dict | list) or generator.random() < 0.2:
        return junk(generator)
    if isinstance(value, list):
        return [*value, junk(generator)]
    changed = dict(value)
    key = generator.choice([*value, "x"])
    if generator.random() < 0.3:
        changed.pop(key, None)
    else:
        changed[key] = mutated(generator, value.get(key))
    return changed


@pytest.mark.slow
def test_whatever_is_sent_the_dashboard_works(run: Path, start: Start) -> None:
    shutil.copytree(run, run.parent / "another")
    generator = random.Random(1)
    with start() as dashboard:
        for number in range(700):
            request = generator.choice(list(FORMS))
            uuid = generator.choice([run.name, "another", "none"])
            body = json.dumps(mutated(generator, FORMS[request]))
            if generator.random() < 0.1:
                body = body[: generator.randrange(len(body) + 1)]
            found = status(dashboard, request, uuid, body)
            assert found in {200, 400, 404}, (request, body)
            if number % 50 == 0:
                assert_works(dashboard, run)
        assert_works(dashboard, run)
        dashboard.process.terminate()
        assert dashboard.process.communicate(timeout=20) == ("", "interrupted\n")
    with start() as dashboard:
        assert_works(dashboard, run)
