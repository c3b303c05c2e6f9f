"""The list of runs, and what the user writes about one: it is kept in the run's folder, not only in the database."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from labml_bn.records.folder import locked
from tests.conftest import Run, metrics
from tests.dashboard.conftest import Dashboard, Start, delete_copies, wait_until

WRITTEN = {"name": "mine", "comment": "against the other", "note": "looked at: γ\ntwice", "favourite_configs": ["norm"]}


def shown(dashboard: Dashboard, run: Path) -> dict[str, Any]:
    """What the page shows of what was written."""
    answer = dashboard.get(f"run/{run.name}")
    return {name: answer[name] for name in WRITTEN}


def test_what_was_written_survives_the_database(run: Path, environment: dict[str, str], start: Start) -> None:
    with start() as dashboard:
        before = shown(dashboard, run)
        dashboard.post(f"run/{run.name}", WRITTEN)
        assert shown(dashboard, run) == WRITTEN
        dashboard.post(f"run/{run.name}", {"comment": ""})
        dashboard.post(f"run/{run.name}", {"name": "mine", "comment": "against the other"})
        dashboard.process.terminate()
        dashboard.process.wait(timeout=20)
    delete_copies(environment)
    with start() as dashboard:
        assert shown(dashboard, run) == WRITTEN
        assert dashboard.runs()[0]["name"] == "mine"
        # What is written to the file by hand, or by another dashboard, is shown too.
        (run / "notes.json").write_text(json.dumps(before))
        wait_until(lambda: shown(dashboard, run) == before)


def test_what_is_unchanged_is_not_written(run: Path, start: Start) -> None:
    """The page sends the name with every note; it is generated as long as the user has not changed it."""
    with start() as dashboard:
        name = shown(dashboard, run)["name"]
        dashboard.post(f"run/{run.name}", {"name": name, "comment": "", "note": ""})
        assert not (run / "notes.json").exists()
        dashboard.post(f"run/{run.name}", {"name": name, "comment": "", "note": "mine"})
    assert json.loads((run / "notes.json").read_text()) == {"note": "mine"}


def test_a_note_on_a_running_run(run: Path, environment: dict[str, str], start: Start) -> None:
    with locked(run):
        with start() as dashboard:
            assert dashboard.runs()[0]["run_status"]["status"] == "in progress"
            dashboard.post(f"run/{run.name}", {"note": "mine"})
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps({"track": {"accuracy.test": [[12000, [0.5]]]}, "time": 0}) + "\n")
            wait_until(lambda: "accuracy 50.00%" in dashboard.runs()[0]["comment"])
            assert shown(dashboard, run)["note"] == "mine"
        delete_copies(environment)
        with start() as dashboard:
            assert shown(dashboard, run)["note"] == "mine"


def test_a_note_that_cannot_be_written_is_refused(run: Path, start: Start) -> None:
    (run / "notes.json").mkdir()  # for root, no folder is read-only
    with start() as dashboard:
        before = shown(dashboard, run)
        status, _, body = dashboard.request("POST", f"/api/v1/run/{run.name}", json.dumps({"note": "lost"}))
        assert (status, json.loads(body)) == (
            409,
            {"error": "not saved: cannot write notes.json to the run's folder: Is a directory"},
        )
        assert shown(dashboard, run) == before
        run.rename(run.parents[2] / "away")
        status, _, body = dashboard.request("POST", f"/api/v1/run/{run.name}", json.dumps({"note": "lost"}))
        assert status in {404, 409}  # it is no longer shown, or will not be within a second
        assert json.loads(body)["error"].endswith(("the folder does not exist", "there is no such run"))


def test_wrong_changes_are_refused(run: Path, start: Start) -> None:
    with start() as dashboard:
        before = dashboard.get(f"run/{run.name}")
        for sent in (
            "nonsense",
            "[]",
            '"note"',
            '{"note": 5}',
            '{"run_uuid": "x"}',
            '{"note": "\\ud800"}',
            '{"note": null}',
            json.dumps({"name": "x" * 201}),
        ):
            status, _, body = dashboard.request("POST", f"/api/v1/run/{run.name}", sent)
            assert status == 400
            assert json.loads(body)["error"].startswith("malformed request: ")
        for path in ("/api/v1/run/no-such-run", "/api/v1/run/..%2f..%2fetc"):
            assert dashboard.request("POST", path, '{"note": "x"}')[0] in {404, 405}
            assert dashboard.request("GET", path)[0] == 404
        assert dashboard.get(f"run/{run.name}") == before
    assert not (run / "notes.json").exists()


def test_the_list_has_the_id_and_the_result(run: Path, start: Start) -> None:
    """Each setting is in it once, in the name."""
    _, (accuracy,) = metrics(run)["accuracy.test"][-1]
    expected = f"{run.name[:8]}, accuracy {accuracy:.2%} after 1 epoch"
    assert yaml.safe_load((run / "run.yaml").read_text())["comment"]  # the settings, as training records them
    with start() as dashboard:
        (listed,) = dashboard.runs()
        assert listed["name"] == "batch_norm epochs=1 train_samples=6000 valid_samples=2000 use_cuda=false"
        assert listed["comment"] == expected
        assert dashboard.get(f"run/{run.name}")["comment"] == ""
        assert dashboard.get(f"run/{run.name}")["tags"] == []
        dashboard.post(f"run/{run.name}", {"comment": "mine"})
        assert dashboard.runs()[0]["comment"] == f"{expected}, mine"


@pytest.mark.parametrize("log", ["", '{"track": {"accuracy.test": [[6000, [NaN]]]}}\n'])
def test_a_run_without_a_result(run: Path, start: Start, log: str) -> None:
    (run / "log.jsonl").write_text(log)
    with start() as dashboard:
        assert dashboard.runs()[0]["comment"] == run.name[:8]


def test_tags_of_the_user_are_shown(run: Path, start: Start) -> None:
    info = yaml.safe_load((run / "run.yaml").read_text())
    (run / "run.yaml").write_text(yaml.safe_dump({**info, "tags": ["batch", "chosen"]}))
    with start() as dashboard:
        assert dashboard.get(f"run/{run.name}")["tags"] == ["batch", "chosen"]


def test_the_sweep_and_the_tags(run: Path, start: Start, command: Run) -> None:
    """The sweep is the first tag. The list, in which the page searches, has them; a new name does not remove them."""
    with (run / "run.yaml").open("a") as info:
        info.write("sweep: norm-lr\n")
    with start() as dashboard:

        def tags() -> list[str]:
            found: list[str] = dashboard.get(f"run/{run.name}")["tags"]
            return found

        assert tags() == ["norm-lr"]
        dashboard.post(f"run/{run.name}", {"name": "mine", "comment": "", "note": "seen"})
        done = command("runs", "--tag", "norm-lr", "good")
        assert "good" in done.stdout
        assert "mine" in done.stdout
        wait_until(lambda: tags() == ["norm-lr", "good"])
        (listed,) = dashboard.runs()
        assert listed["name"] == "mine"
        assert listed["comment"].endswith(" after 1 epoch, norm-lr, good")
        assert "seen" in command("runs").stdout
        assert command("runs", "--name", "latest", "", "--note", "latest", "other").returncode == 0
        wait_until(lambda: dashboard.get(f"run/{run.name}")["note"] == "other")
        assert dashboard.runs()[0]["name"].startswith("batch_norm epochs=1")


def test_very_many_tags(run: Path, start: Start) -> None:
    many = ["\x1b[2J", "x" * 1000, *map(str, range(5000))]
    (run / "notes.json").write_text(json.dumps({"tags": many, "name": "x" * 1000}))
    with (run / "run.yaml").open("a") as info:
        info.write(f"tags: {json.dumps(many)}\n")
    with start() as dashboard:
        assert dashboard.get(f"run/{run.name}")["tags"] == [*map(str, range(51))]
        assert len(dashboard.runs()[0]["name"]) == 200


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_the_repository(run: Path, start: Start) -> None:
    """Its page and commit, for each form of a remote; nothing is printed, whatever is recorded."""
    page = "https://github.com/owner/name"
    info = yaml.safe_load((run / "run.yaml").read_text())
    cases: dict[str, tuple[Any, Any, str, str]] = {
        "https": (["https://github.com/owner/name"], COMMIT, page, f"{page}/commit/{COMMIT}"),
        "https-git": (["https://github.com/owner/name.git"], COMMIT, page, f"{page}/commit/{COMMIT}"),
        "ssh": (["git@github.com:owner/name"], COMMIT, page, f"{page}/commit/{COMMIT}"),
        "ssh-git": (["git@github.com:owner/name.git"], COMMIT, page, f"{page}/commit/{COMMIT}"),
        "folder": (["/srv/name"], COMMIT, "", COMMIT),
        "none": ([], COMMIT, "", COMMIT),
        "unknown": ([], "unknown", "", ""),
        "no-commit": (["https://github.com/owner/name"], "unknown", page, ""),
        "damaged": (5, 5, "", ""),
    }
    for name, (remotes, commit, _, _) in cases.items():
        copy = Path(shutil.copytree(run, run.parent / name))
        (copy / "run.yaml").write_text(yaml.safe_dump({**info, "repo_remotes": remotes, "commit": commit}))
    with start() as dashboard:
        for name, (_, _, repository, commit) in cases.items():
            answer = dashboard.get(f"run/{name}")
            assert (answer["repo_remotes"], answer["commit"]) == (repository, commit), name
        dashboard.process.terminate()
        output, errors = dashboard.process.communicate(timeout=20)
        assert (output, errors) == ("", "interrupted\n")


def test_each_run_is_in_one_list(run: Path, start: Start) -> None:
    """Also after requests that repeat themselves; a request with a run that does not exist changes nothing."""
    shutil.copytree(run, run.parent / "another")

    def lists() -> tuple[set[str], set[str]]:
        found = [dashboard.get(f"runs/null?folder_name={name}")["runs"] for name in ("default", "archive")]
        default, archive = ({entry["run_uuid"] for entry in entries} for entries in found)
        return default, archive

    with start() as dashboard:
        for _ in range(2):
            dashboard.post("runs/archive", {"run_uuids": [run.name, run.name]})
            assert lists() == ({"another"}, {run.name})
        for path, method in (("runs/archive", "POST"), ("runs/unarchive", "POST"), ("runs", "PUT")):
            body = json.dumps({"run_uuids": ["another", run.name, "none"]})
            assert dashboard.request(method, f"/api/v1/{path}", body)[0] == 404
            assert lists() == ({"another"}, {run.name})
        dashboard.post("runs", {"run_uuids": ["another"]}, method="PUT")
        for _ in range(2):
            dashboard.post("runs/unarchive", {"run_uuids": [run.name]})
            assert lists() == ({run.name}, set())
