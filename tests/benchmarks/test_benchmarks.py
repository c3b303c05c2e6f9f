"""The benchmarks run, and their tables are made from what they measured. No test compares times."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from labml_bn.cli.errors import UserError
from tests.benchmarks import machine, readme, report
from tests.benchmarks.__main__ import PARTS
from tests.benchmarks.command import measured
from tests.benchmarks.epoch import CONTENDERS, Images, run_contender, run_ours
from tests.benchmarks.measuring import Options, Row, compare, geometric_mean, interleaved
from tests.benchmarks.report import Result
from tests.benchmarks.startup import one_step, shares_of_imports

HERE = Path(__file__).parent
PROGRAMS = [*CONTENDERS, "one_cycle"]
MACHINE = {"CPU": "a processor", "cores": "4", "torch": "2.15.0"}


@pytest.fixture
def home(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that are started without an environment of their own have an empty home, too."""
    monkeypatch.setenv("HOME", environment["HOME"])


def a_result(ratio: float = 2.0, others: float | None = 0.01) -> Result:
    rows = [Row("a step", "PyTorch", ratio, 0.002 * ratio, 0.002, (1.5, 2.5)), Row("a loop", "x: not installed")]
    return Result("2026-11-23", 12.3, others, rows, ["a remark"])


def test_calls_take_turns_and_the_warm_up_is_left_out() -> None:
    made: list[str] = []
    calls = {name: lambda name=name: made.append(name) for name in "AB"}
    times = interleaved(calls, warm_up=2, least=3, most=5, seconds=0)
    assert made == ["A", "B"] * 5
    assert {name: len(each) for name, each in times.items()} == {"A": 3, "B": 3}
    assert len(interleaved(calls, warm_up=0, least=3, most=5, seconds=100)["A"]) == 5


def test_a_ratio_is_that_of_the_medians() -> None:
    row = compare("a step", "PyTorch", ours=[2.0, 4.0, 9.0], theirs=[1.0, 2.0, 3.0])
    assert row == Row("a step", "PyTorch", 2.0, 4.0, 2.0, (2.0, 2.5))
    assert compare("one", "other", [3.0], [2.0]).quartiles == (1.5, 1.5)
    mean = geometric_mean(", training", [Row("", "PyTorch", ratio) for ratio in (1.0, 4.0)])
    assert (mean.what, mean.against) == ("geometric mean of 2, training", "PyTorch")
    assert mean.ratio == pytest.approx(2.0)


def test_the_table() -> None:
    assert report.cells({"layer": a_result()}) == [
        ["part", "measured", "relative to", "ours", "theirs", "ratio", "quartiles"],
        ["layer", "a step", "PyTorch", "4 ms", "2 ms", "2.00", "1.50 to 2.50"],
        ["layer", "a loop", "x: not installed", "", "", "", ""],
    ]
    text = report.as_text({"layer": a_result()})
    assert text.endswith("layer: 2026-11-23, 12.3 s; other processes used 0.01 cores\nlayer: a remark")
    assert "too busy: measure again" in report.as_text({"layer": a_result(others=1.5)})
    assert "other processes" not in report.as_text({"layer": a_result(others=None)})


def test_the_saved_results(tmp_path: Path) -> None:
    report.save(tmp_path, MACHINE, {"layer": a_result(), "step": a_result()})
    written = (tmp_path / "RESULTS.md").read_text()
    assert "- CPU: a processor\n- cores: 4\n- torch: 2.15.0\n" in written
    assert "| layer | a step | PyTorch | 4 ms | 2 ms | 2.00 | 1.50 to 2.50 |\n" in written
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["machine"] == MACHINE
    assert Result.of(saved["parts"]["layer"]) == a_result()

    report.save(tmp_path, MACHINE, {"step": a_result(3.0)})
    written = (tmp_path / "RESULTS.md").read_text()
    assert "| layer | a step | PyTorch | 4 ms |" in written
    assert "| step | a step | PyTorch | 6 ms |" in written

    report.save(tmp_path, {**MACHINE, "torch": machine.NOT_INSTALLED}, {"step": a_result()})
    assert "- torch: 2.15.0\n" in (tmp_path / "RESULTS.md").read_text()
    assert "| layer |" in (tmp_path / "RESULTS.md").read_text()

    report.save(tmp_path, {**MACHINE, "torch": "2.16.0"}, {"step": a_result()})
    assert "| layer |" not in (tmp_path / "RESULTS.md").read_text()


def test_what_a_part_measures_is_collected(capsys: pytest.CaptureFixture[str]) -> None:
    row, missing = a_result().rows
    result = measured(iter([row, "a remark", missing]))
    assert (result.rows, result.notes) == ([row, missing], ["a remark"])
    assert capsys.readouterr().err == "a step, relative to PyTorch: 2\n"


def test_a_busy_machine() -> None:
    assert machine.judge(0.1, refuse=True) is machine.judge(None, refuse=True) is None
    complaint = machine.judge(1.5, refuse=False)
    assert complaint is not None
    assert "other processes use 1.5 cores" in complaint
    with pytest.raises(UserError, match="--anyway"):
        machine.judge(1.5, refuse=True)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux only")
def test_the_used_processor_time() -> None:
    start = machine.usage()
    assert start is not None
    later = machine.usage()
    assert later is not None
    assert later.time >= start.time
    assert later.total >= start.total
    assert later.own >= start.own
    assert machine.others_since(start) is not None
    assert machine.others_since(None) is None


def test_the_machine_is_described() -> None:
    described = machine.describe()
    assert {"CPU", "cores", "PyTorch's threads", "Python", "torch", "numba"} <= described.keys()
    assert all(described.values())


def test_shares_of_imports() -> None:
    output = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |   json
import time:       200 |        200 |     torch._C
import time:       100 |        300 |   torch
"""
    assert shares_of_imports(output) == {"the standard library": 0.25, "torch": 0.75}


def test_each_file_begins_with_its_command() -> None:
    assert {path.stem for path in HERE.glob("contenders/*.py")} - {"__init__", "common"} == set(PROGRAMS)
    commands = {HERE / f"{part}.py": f"tests.benchmarks.{part}" for part in PARTS}
    commands |= {HERE / f"contenders/{name}.py": f"tests.benchmarks.contenders.{name}" for name in PROGRAMS}
    commands[HERE / "__main__.py"] = "tests.benchmarks"
    for path, module in commands.items():
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring is not None
        assert f"`python -m {module}" in docstring.splitlines()[0]


@pytest.mark.parametrize("part", ["layer", "step", "tracker", "checkpoint", "sweep"])
def test_a_part_alone(part: str, data_path: Path, work: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{part}", "--quick", "--data", str(data_path)]
    paths = os.pathsep.join([str(HERE.parents[1]), environment.get("PYTHONPATH", "")])
    variables = {**environment, "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == " ".join(report.HEADING).split()
    assert rows[0].startswith(part)
    assert list(work.iterdir()) == []


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_contender(name: str, data_path: Path) -> None:
    if name == "annotated" and importlib.util.find_spec("labml_nn") is None:
        pytest.skip("labml-nn is not installed")
    run = run_contender(name, Images(data_path, train=128, test=50))
    assert 0 < run.loop < run.total
    assert run.accuracy * 50 == pytest.approx(round(run.accuracy * 50))


@pytest.mark.usefixtures("home")
def test_our_run(data_path: Path) -> None:
    run = run_ours(Images(data_path, train=128, test=50))
    assert 0 < run.loop < run.total
    assert run.accuracy * 50 == pytest.approx(round(run.accuracy * 50))


@pytest.mark.slow
@pytest.mark.parametrize("chosen_by", ["test", "held_out"])
def test_the_accurate_network(chosen_by: str, data_path: Path, environment: dict[str, str]) -> None:
    """What is printed for each seed, and their mean, of the test images or of the held-out ones."""
    settings = ["epochs=1", "train_samples=128", "valid_samples=50", "layers=8N"]
    settings += ["held_out=100"] if chosen_by == "held_out" else []
    command = [sys.executable, "-m", "tests.benchmarks.accurate", "--seeds", "2", "--jobs", "2", *settings]
    command += ["--data", str(data_path)]
    root = HERE.parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    accuracies = re.findall(r"seed=\d: accuracy (.*)%, loss", done.stdout)
    assert len(accuracies) == 2
    (mean,) = re.findall(rf"mean accuracy.{chosen_by}: (.*)% \(95 % interval .*% to .*%\)", done.stdout)
    if chosen_by == "test":
        assert float(mean) == pytest.approx(sum(map(float, accuracies)) / 2, abs=0.006)


@pytest.mark.slow
def test_unlike(trained: Path, environment: dict[str, str]) -> None:
    """A row for each kind of image; digits are read in every light, and noise is unlike them."""
    command = [sys.executable, "-m", "tests.benchmarks.unlike", str(trained), "--images", "5"]
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [re.split("  +", line) for line in done.stdout.splitlines()[2:]]
    assert len(rows) == 16
    for kind, count, refused, unlike, *right in rows:
        assert count.strip() == "5"
        if kind.startswith("digits"):
            assert (refused, *right) == ("0.0%", "100.0%")
        if kind.startswith("noise"):
            assert unlike == "100.0%"


@pytest.mark.usefixtures("home")
def test_a_run_of_one_step(data_path: Path) -> None:
    first, total = one_step(Options(data=data_path))
    assert 0 < first < total


def test_the_table_in_the_readme_is_made_from_the_results(tmp_path: Path) -> None:
    saved = json.loads((HERE / "results.json").read_text())["parts"]
    copy = tmp_path / "README.md"
    copy.write_text(readme.README.read_text())
    readme.write({part: Result.of(values) for part, values in saved.items()}, copy)
    assert copy.read_text() == readme.README.read_text()


def test_wrong_use() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "layers"]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown part 'layers'" in done.stderr
