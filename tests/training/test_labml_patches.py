"""What labml does without the patches, and that it does not do it with them."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from labml import experiment, lab
from labml.internal import util
from labml.internal.experiment import experiment_singleton

from labml_bn.training import labml_patches


def test_the_version_they_are_for() -> None:
    """A new version of labml may not need a patch any more, or need another: look at each of them then."""
    assert labml_patches.__doc__ is not None
    assert f"labml {version('labml')} " in labml_patches.__doc__


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with labml_patches.quiet():
        print("labml: greetings")
        with pytest.raises(NameError):
            util.get_ipython()
    assert capsys.readouterr().out == ""
    assert not hasattr(util, "get_ipython")


def arguments(folder: Path) -> dict[str, object]:
    lab.configure({"experiments_path": str(folder / "logs")})
    return {"comment": "", "writers": set(), "python_file": str(folder / "x.py"), "name": "test"}


def test_without_a_readable_repository(tmp_path: Path) -> None:
    """It has a commit, but git refuses to read it."""
    (tmp_path / "package").mkdir()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=Test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a commit"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / ".git" / "index").write_text("damaged")
    lab.configure({"path": str(tmp_path)})
    with labml_patches.quiet():
        with pytest.raises(Exception):  # noqa: B017, PT011 - labml lets GitPython's error through
            experiment.create(**arguments(tmp_path))
        labml_patches.create_experiment(tmp_path / "package", arguments(tmp_path))
    assert experiment_singleton().run.name == "test"


def test_a_resumed_run_keeps_its_information(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    with labml_patches.quiet():
        labml_patches.create_experiment(tmp_path / "package", arguments(tmp_path))
    run = experiment_singleton().run
    run.make_path()
    info = run.run_path / "run.yaml"
    info.write_text("trial_date: '2026-01-02'\n")
    run.pid_path.write_text("1")
    labml_patches.keep_run_info(run)
    run.save_info()
    assert info.read_text() == "trial_date: '2026-01-02'\n"
    assert run.pid_path.read_text() == str(run.pid)


def test_many_first_starts_at_once(tmp_path: Path) -> None:
    """Each creates `~/.labml` if it is missing."""
    code = "import pathlib, sys\nfrom labml_bn.training import labml_patches as p\nfrom labml import lab\n"
    code += "folder = pathlib.Path(sys.argv[1])\nlab.configure({'experiments_path': str(folder / 'logs')})\n"
    code += (
        "with p.quiet():\n    p.create_experiment(folder, dict(comment='', writers=set(), python_file='x', name='n'))\n"
    )
    code += "print('ready', file=sys.stderr, flush=True); input()\n"
    code += "from labml.internal.experiment import experiment_singleton\nexperiment_singleton().run.make_path()\n"
    code += "p.start_experiment()"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            env={"HOME": str(tmp_path / "home"), "PATH": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    (tmp_path / "home").mkdir()
    for process in processes:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
    for process in processes:  # all of them wait here, so that they start together
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
