"""`python -m labml_bn.train` with several values, as a user runs it."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labml_bn.records import notes
from labml_bn.records.folder import list_checkpoints
from labml_bn.records.record import read_run
from labml_bn.settings import complete, read_grid
from tests.conftest import Begin, Run
from tests.training.sweeps.conftest import logs, records, runs
from tests.training.test_run import tracked, wait_for

#: Settings with which a run diverges.
DIVERGES = ["norm=none", "optimizer.optimizer=SGD"]


def expected(arguments: list[str]) -> list[str]:
    """The settings of each run, in any order."""
    return sorted(json.dumps(complete(settings)) for settings in read_grid(arguments).combinations())


def trained(work: Path) -> list[str]:
    return sorted(json.dumps(record.settings) for record in records(work))


def test_from_the_command_line(train: Run, command: Run, work: Path, tiny: list[str]) -> None:
    """Two at a time: a line for each run, and each an ordinary run that names its sweep and has the notes."""
    arguments = [*tiny, "norm=batch_norm,none", "seed=1..2"]
    done = train(*arguments, "--jobs", "2", "--tag", "first", "--tag", "second", "--note", "of a sweep")
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines, summary, _ = done.stdout.splitlines()
    assert first == "sweep norm-seed: 4 runs, 2 at a time, 1 thread each"
    for number, line in enumerate(lines, 1):
        result = (
            rf"{number}/4 norm=\w+ seed=[12]: accuracy \d+\.\d\d%, loss \d+\.\d{{4}}, \d+\.\d s, logs/batch_norm/\w+"
        )
        assert re.fullmatch(result, line), line
    assert len(lines) == 4
    assert re.fullmatch(r"4 runs in [\d.]+ s", summary)
    assert "\r" not in done.stdout
    assert trained(work) == expected(arguments)
    for record in records(work):
        assert (record.status, record.sweep) == ("completed", "norm-seed")
        assert notes.read(record.folder) == {"tags": ["first", "second"], "note": "of a sweep"}
    assert command("evaluate", runs(work)[0]).returncode == 0

    before = logs(work)
    again = train("--resume", "norm-seed")
    assert (again.returncode, again.stderr) == (0, "")
    compare = "Compare them: python -m labml_bn.compare norm-seed\n"
    assert again.stdout == f"sweep norm-seed: 4 runs, 4 complete\n{compare}"
    assert logs(work) == before


def test_the_same_run_as_alone(train: Run, work: Path, tiny: list[str]) -> None:
    assert train(*tiny, "norm=none,torch", "--jobs", "1", "--name", "pair").returncode == 0
    (of_sweep,) = (record.folder for record in records(work) if record.settings["norm"] == "torch")
    assert train(*tiny, "norm=torch", "--name", "alone").returncode == 0
    alone = records(work)[-1]
    assert (alone.given_name, alone.sweep) == ("alone", None)
    assert tracked(alone.folder) == tracked(of_sweep)


def test_from_a_config_file(train: Run, work: Path, tiny: list[str]) -> None:
    """A key on the command line replaces the values of the file. A name that is taken gets a number."""
    (work / "c.yaml").write_text("keep: 1\nsweep:\n  norm: [none, torch]\n  seed.seed: 1..9\n")
    arguments = ["c.yaml", *tiny, "seed=3,4"]
    (work / "logs" / "sweeps").mkdir(parents=True)
    (work / "logs" / "sweeps" / "norm-seed.json").write_text("")
    done = train(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sweep norm-seed-2: 4 runs, ")
    (work / "logs" / "sweeps" / "norm-seed.json").unlink()
    assert {record.sweep for record in records(work)} == {"norm-seed-2"}
    os.chdir(work)
    assert trained(work) == expected(arguments)


def test_a_run_that_diverges(train: Run, work: Path, tiny: list[str]) -> None:
    """It is noted, the others go on, and the exit status says so; it is not repeated."""
    done = train(*tiny, *DIVERGES, "lr=1e6,0.01,0.02", "--jobs", "1")
    assert done.returncode == 1
    assert done.stderr == "error: of 3 runs, 1 diverged\n"
    lines = done.stdout.splitlines()
    assert lines[1].startswith("1/3 lr=1e+06: diverged: epoch 1, step ")
    assert re.match(r"3/3 lr=0.02: accuracy ", lines[3])
    assert lines[4].startswith("3 runs, 1 diverged in ")
    assert [record.status for record in records(work)] == ["diverged", "completed", "completed"]
    before = logs(work)
    again = train("--resume", "lr")
    assert (again.returncode, again.stderr) == (1, "error: of 3 runs, 1 diverged\n")
    assert again.stdout.startswith("sweep lr: 3 runs, 2 complete, 1 diverged\n")
    assert logs(work) == before


@pytest.fixture
def long(tiny: list[str]) -> list[str]:
    """Two short runs, then two that only a signal ends."""
    return [*tiny, "epochs=1,5000", "seed=1..2", "--jobs", "2"]


def newest(run: Path) -> int:
    """The number of images that a run had seen at its latest checkpoint; 0 if there is none."""
    return max((int(path.stem) for path in list_checkpoints(run)), default=0)


def wait_for_checkpoints(work: Path, process: "subprocess.Popen[str]") -> None:
    """Wait until the two short runs have ended, and the others have trained for a few epochs."""
    wait_for(process, "2/4 ")
    while True:
        if sum(newest(run) >= 900 for run in runs(work)) == 2:
            return
        assert process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_by_a_signal(begin: Begin, train: Run, work: Path, long: list[str], number: int) -> None:
    """All runs end; --resume repeats none, and resumes those that were interrupted."""
    process = begin(*long)
    wait_for_checkpoints(work, process)
    finished = {run: log for run, log in logs(work).items() if read_run(run).status == "completed"}
    assert len(finished) == 2
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == (130 if number == signal.SIGINT else 143)
        assert error == "interrupted: resume with: python -m labml_bn.train --resume epochs-seed\n"
        assert sorted(record.status for record in records(work)) == ["completed"] * 2 + ["interrupted"] * 2

    others = [run for run in runs(work) if run not in finished]
    resumed = begin("--resume", "epochs-seed")
    assert resumed.stdout is not None
    assert resumed.stdout.readline().startswith("sweep epochs-seed: 4 runs, 2 complete, 2 at a time")
    seen = {run: newest(run) for run in others}
    while not all(read_run(run).status == "running" and newest(run) > seen[run] for run in others):
        assert resumed.poll() is None
    resumed.send_signal(signal.SIGTERM)
    resumed.communicate(timeout=60)
    assert resumed.returncode == 143
    assert {run: (run / "log.jsonl").read_bytes() for run in finished} == finished
    assert len(runs(work)) == 4
    for run in others:
        assert read_run(run).status == "interrupted"
        assert [json.loads(line)["status"] for line in (run / "run_log.jsonl").read_text().splitlines()].count(
            "resumed"
        ) == 1


@pytest.mark.slow
def test_a_second_signal(begin: Begin, work: Path, long: list[str]) -> None:
    """No process is left."""
    process = begin(*long)
    wait_for_checkpoints(work, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode in {130, 143}
    assert error == "interrupted: resume with: python -m labml_bn.train --resume epochs-seed\n"
    assert "running" not in {record.status for record in records(work)}


@pytest.mark.slow
def test_two_processes_with_one_sweep(begin: Begin, train: Run, work: Path, tiny: list[str], long: list[str]) -> None:
    process = begin(*long, "--sweep", "mine")
    wait_for_checkpoints(work, process)
    for arguments in (["--resume", "mine"], [*long, "--sweep", "mine"]):
        refused = train(*arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr == (
            "error: the sweep mine is in use by another process: wait for its end, or name another (--sweep NAME)\n"
        )
    refused = train(*tiny, "epochs=5000", "seed=1", "--sweep", "mine")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.endswith(" is in use by another process\n")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert len(runs(work)) == 4


@pytest.mark.slow
def test_the_commands_of_a_sweep(train: Run, work: Path, tiny: list[str], environment: dict[str, str]) -> None:
    """Executed by a shell, in two folders of logs that are then one, they are the sweep."""
    (work / "c.yaml").write_text("sweep: {norm: [none, torch]}\n")
    arguments = ["c.yaml", *tiny, "seed=1..2"]
    printed = train(*arguments, "--dry-run", "--tag", "a b", "--note", "it's $HOME")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert runs(work) == []
    assert not (work / "logs").exists()
    lines = printed.stdout.splitlines()
    assert len(lines) == 4
    for number, line in enumerate(lines):
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "labml_bn.train"]
        shell = line.replace("python", shlex.quote(sys.executable), 1) + f" logs_path=machine{number % 2}"
        subprocess.run(shell, shell=True, cwd=work, env=environment, check=True, capture_output=True)
    for machine in ("machine0", "machine1"):
        shutil.copytree(work / machine / "batch_norm", work / "logs" / "batch_norm", dirs_exist_ok=True)
    assert {record.sweep for record in records(work)} == {"norm-seed"}
    assert notes.read(runs(work)[0]) == {"tags": ["a b"], "note": "it's $HOME"}
    before = logs(work)
    resumed = train("--resume", "norm-seed")
    assert resumed.returncode == 0
    assert resumed.stdout.startswith("sweep norm-seed: 4 runs, 4 complete\n")
    only = "warning: logs/sweeps/norm-seed.json is missing, so only the 4 runs in logs are known "
    only += "(for the others, write the settings of the sweep again, and --sweep norm-seed)\n"
    assert resumed.stderr == only
    again = train(*shlex.split(lines[0])[3:])
    assert (again.returncode, again.stderr) == (0, "")
    assert "had already completed its epochs" in again.stdout
    same = train(*arguments, "--sweep", "norm-seed")
    assert (same.returncode, same.stderr) == (0, "")
    assert same.stdout.startswith("sweep norm-seed: 4 runs, 4 complete\n")
    assert logs(work) == before
    missing = train(*arguments, "--sweep", "norm-seed", "--dry-run")
    assert (missing.returncode, missing.stdout, missing.stderr) == (0, "", "")
    shutil.rmtree(runs(work)[0])
    assert len(train("--resume", "norm-seed", "--dry-run").stdout.splitlines()) == 1


def test_like_a_run(train: Run, work: Path, tiny: list[str]) -> None:
    assert train(*tiny, "norm=none", "lr=0.002").returncode == 0
    notice = f"settings of logs/batch_norm/{runs(work)[0].name}\n"
    commands = train("--like", "latest", "seed=1..2", "--dry-run")
    assert (commands.returncode, commands.stderr) == (0, notice)
    assert [line.split()[:3] for line in commands.stdout.splitlines()] == [["python", "-m", "labml_bn.train"]] * 2
    done = train("--like", "latest", "seed=1..2")
    assert (done.returncode, done.stderr) == (0, notice)
    again = train("--resume", "seed")
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "sweep seed: 2 runs, 2 complete")
    (first, *others) = records(work)
    assert [{**record.settings, "seed.seed": 5, "data_path": ""} for record in others] == [
        {**first.settings, "data_path": ""}
    ] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=5..1"], "seed.seed=5..1 is empty"),
        (
            ["norm=none,torch", "train_batch_size=1,2"],
            "norm=torch batch_size=1: train_batch_size=1 makes a batch of one",
        ),
        (["seed=1,1"], "seed.seed=1 is given twice"),
        (["norm=none,'torch"], 'norm: "\'torch" has no closing quote'),
        (["betas=[0.9,0.99],[0.8"], "optimizer.betas: '[0.8' has no closing bracket"),
        (["logs_path=a,b"], "logs_path cannot vary within a sweep"),
        (["seed=1..1000000"], "these are 1,000,000 runs: a sweep can have at most 100,000"),
        (["seed=1..2", "--sweep", "../x"], "'../x' cannot be a sweep's name"),
        (["seed=1..2", "--name", ""], "'' cannot be a sweep's name"),
        (["seed=1", "--sweep", "latest"], "'latest' cannot be a sweep's name: it means the newest run"),
        (["seed=1..2", "--name", "a", "--sweep", "b"], "a sweep has one name: write --name or --sweep"),
        (["seed=1..2", "--jobs", "0"], "--jobs 0: write how many runs"),
        (["seed=1..2", "--jobs", "two"], "argument --jobs: invalid int value: 'two'"),
        (["seed=1", "--dry-run"], "--dry-run prints the commands of a sweep, and this is one run"),
        (["--tag", "\udcff"], "'\\udcff' cannot be a tag: write 1 to 100 characters, no comma"),
        (["--tag", "a,b"], "'a,b' cannot be a tag: write 1 to 100 characters, no comma"),
        (["--tag", ""], "'' cannot be a tag: write 1 to 100 characters, no comma"),
        (["--name", "two\nlines"], "'two\\nlines' cannot be a name: write at most 200 printable characters"),
        (["--note", "\udcff"], "'\\udcff' cannot be a note: it is not valid UTF-8"),
        (["--resume", "latest", "--tag", "x"], "--name, --tag, --note and --sweep are for new runs"),
    ],
)
def test_mistakes(train: Run, work: Path, tiny: list[str], arguments: list[str], message: str) -> None:
    """Each is found before the first run, in one line."""
    done = train(*(arguments if "--resume" in arguments else [*tiny, *arguments]))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"error: {message}")
    assert list(work.iterdir()) == []


@pytest.mark.slow
def test_mistakes_with_a_sweep(train: Run, work: Path, tiny: list[str]) -> None:
    """Nothing is started, and nothing changes."""
    assert train(*tiny, "norm=none,torch").returncode == 0
    before = logs(work)
    for arguments, status, message in (
        (["--resume", "nosuch"], 1, "no run in "),
        (["--resume", "norm", "epochs=3"], 2, "epochs=3: the settings of the sweep norm cannot be changed"),
        (["--resume", "norm", "seed=1..2"], 2, "seed.seed has several values (2)"),
        ([*tiny, "norm=none,batch_norm", "--sweep", "norm"], 2, "the sweep norm exists with other settings: choose"),
        ([*tiny, "norm=batch_norm", "--sweep", "norm"], 2, "the sweep norm has no run with these settings: choose"),
        ([*tiny, "norm=none,torch", "seed=7", "--sweep", "norm"], 2, "the sweep norm exists with other settings"),
    ):
        done = train(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1), done.stderr
        assert done.stderr.startswith(f"error: {message}"), done.stderr
    assert logs(work) == before
    (work / "logs" / "sweeps" / "norm.json").unlink()
    done = train(*tiny, "norm=none,batch_norm", "--sweep", "norm")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: the sweep norm has runs with other settings: choose")
    assert logs(work) == before


def test_all_fail(train: Run, work: Path, tiny: list[str]) -> None:
    """There is nothing to compare. What did not diverge can be tried again."""
    (work / "logs").mkdir()
    (work / "logs" / "batch_norm").write_text("")
    done = train(*tiny, "norm=none", "seed=1..2")
    assert done.returncode == 1
    assert re.fullmatch(r"2 runs, 2 failed in [\d.]+ s", done.stdout.splitlines()[-1])
    assert done.stderr == "error: of 2 runs, 2 failed (--resume seed tries again those that failed)\n"


def test_logs_not_writable(train: Run, work: Path, tiny: list[str]) -> None:
    (work / "logs").write_text("")
    done = train(*tiny, "seed=1..2")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: cannot write the sweep to logs/sweeps: ")


def test_the_reader_of_the_output_goes(begin: Begin, work: Path, tiny: list[str]) -> None:
    """`train ... | head -1`: the sweep continues to its end without an error."""
    process = begin(*tiny, "seed=1..2", "--jobs", "1")
    wait_for(process, "sweep seed: 2 runs")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0
    assert [record.status for record in records(work)] == ["completed"] * 2
