"""Every command on every hostile run: it ends in time, in one line or with a result, and changes nothing outside."""

import csv
import io
import json
import os
import re

import pytest
from PIL import Image

from labml_bn.trained.weights import WEIGHTS
from tests.hostile.conftest import Received
from tests.hostile.folders import CHANGES
from tests.hostile.processes import MEMORY, Outcome, outcomes

#: What a terminal would act on, or what cannot be read aloud.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: Each command that takes a run, and files of it that it reads and other commands do not.
ONE_RUN = {
    "evaluate": (["evaluate", "RUN"], {"configs.yaml", "name"}),
    "evaluate a checkpoint": (["evaluate", "RUN", "--checkpoint", "last"], {"checkpoints"}),
    "evaluate the best": (["evaluate", "RUN", "--checkpoint", "best"], {"checkpoints"}),
    "diagnose": (["diagnose", "RUN", "--batches", "2"], {WEIGHTS, "configs.yaml"}),
    "predict": (["predict", "RUN", "image.png"], {WEIGHTS}),
    "export": (["export", "RUN", "network.pt2"], {"run.pid"}),
    "compare": (["compare", "RUN", "logs/batch_norm/good", "--figure", "figure.svg"], {"name"}),
    "tag": (["runs", "--tag", "RUN", "received"], {"notes.json", "name"}),
    "distributions": (["compare", "RUN", "--figure", "figure.svg", "--distributions", "spread.svg"], {"log.jsonl"}),
    "resume": (
        ["train", "--resume", "RUN", "epochs=3"],
        {"checkpoints", "log.jsonl", "run.lock", "indicators.yaml", "run.pid"},
    ),
    "repeat": (
        [
            "train",
            "--like",
            "RUN",
            "epochs=1",
            "train_samples=64",
            "valid_samples=10",
            "layers=8N",
            "logs_path=repeated",
        ],
        {"configs.yaml"},
    ),
}


def check(what: str, outcome: Outcome, baseline: int) -> None:
    assert outcome.status in (0, 1, 2), (what, outcome)
    assert "Traceback" not in outcome.err, (what, outcome.err)
    assert not CONTROL.search(outcome.out), (what, outcome.out)
    assert not CONTROL.search(outcome.err), (what, outcome.err)
    lines = outcome.err.splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == (outcome.status != 0), (what, outcome)
    assert len(lines) <= 4, (what, outcome.err)
    assert all(len(line) < 1500 for line in lines), (what, outcome.err)
    assert outcome.memory < baseline + MEMORY, (what, outcome)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "read"), ONE_RUN.values(), ids=ONE_RUN)
def test_a_hostile_run(received: Received, command: list[str], read: set[str]) -> None:
    image = Image.new("L", (28, 28))
    image.paste(255, (12, 4, 16, 24))
    image.save(received.work / "image.png")
    wanted = [what for what in received.hostile if CHANGES.get(what, ("name",))[0] in read]
    folders = {"good": received.good, **{what: received.hostile[what] for what in wanted}}
    before = received.outside()
    cases = [[word.replace("RUN", os.fspath(run)) for word in command] for run in folders.values()]
    found = dict(zip(folders, outcomes(cases, received.work, received.environment), strict=True))
    assert found["good"].status == 0, found["good"]
    for what, outcome in found.items():
        check(what, outcome, found["good"].memory)
    assert received.outside() == before
    made = {"image.png", "network.pt2", "figure.svg", "figure.html", "spread.svg", "repeated"}
    assert {path.name for path in received.work.iterdir()} <= {"home", "logs", "data", "outside", *made}


@pytest.mark.slow
def test_all_runs_at_once(received: Received) -> None:
    """The good run is shown, and each that cannot be read is a line."""
    before = received.outside()
    cases = [
        ["runs"],
        ["runs", "--csv"],
        ["runs", "--json", "--where", "status=completed and accuracy.test>=0 or tags=x", "--sort", "tags"],
        ["runs", "--columns", "run,name,sweep,tags,note,accuracy.test"],
        ["compare", "latest:20", "--figure", "figure.svg"],
        ["compare", "good", "--figure", "figure.svg"],
        ["evaluate", "latest"],
        ["evaluate", "good"],
        ["train", "--resume", "latest", "epochs=3"],
    ]
    runs, as_csv, as_json, *others = outcomes(cases, received.work, received.environment)
    assert runs.status == 0
    shown = [line.split()[0] for line in runs.out.splitlines()[1:]]
    assert "good" in shown
    unreadable = [line for line in runs.err.splitlines() if line.startswith("warning: this run cannot be read: ")]
    assert len(unreadable) == len(runs.err.splitlines()) == len(received.hostile) + 1 - len(shown)
    assert len(unreadable) > 20
    names = [row["run"].removeprefix("'") for row in csv.DictReader(io.StringIO(as_csv.out))]
    assert len(names) == len(set(names)) == len(shown)
    assert not [cell for row in csv.reader(io.StringIO(as_csv.out)) for cell in row if cell.startswith(tuple("=+@"))]
    assert {row["run"] for row in json.loads(as_json.out)} <= set(names)
    for outcome in (runs, as_csv, as_json, *others):
        assert outcome.status == 0, outcome
        assert "Traceback" not in outcome.err
        assert not CONTROL.search(outcome.out + outcome.err)
    assert received.outside() == before
