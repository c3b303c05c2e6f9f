"""Where the images of a run are: in the folder that it used, if that has them; never where a received file says."""

import shutil
from pathlib import Path

import pytest
import yaml

from labml_bn.settings import complete
from labml_bn.trained.data import find_data


@pytest.fixture
def project(tmp_path: Path, data_path: Path) -> Path:
    """A project with a run and a data folder, which is a link to the real data set; and other folders."""
    for name in ("project/logs/batch_norm/aa", "project/deeper", "elsewhere", "empty"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "project" / "data").symlink_to(data_path)
    return tmp_path / "project"


def record_data(run: Path, folder: object) -> None:
    (run / "configs.yaml").write_text(yaml.safe_dump({"data_folder": {"computed": folder, "value": None}}))


@pytest.mark.parametrize(("here", "found"), [(".", "data"), ("deeper", "../data"), ("../elsewhere", "../project/data")])
def test_the_data_folder_of_a_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], here: str, found: str
) -> None:
    run = project / "logs" / "batch_norm" / "aa"
    record_data(run, "../../../data")
    monkeypatch.chdir(project / here)
    assert find_data(run, complete({})) == found
    moved = project.rename(project.parent / "moved")
    monkeypatch.chdir(moved / "deeper")
    assert find_data(moved / "logs" / "batch_norm" / "aa", complete({})) == "../data"
    assert capsys.readouterr().err == ""


def test_an_absolute_path(project: Path, monkeypatch: pytest.MonkeyPatch, data_path: Path) -> None:
    monkeypatch.chdir(data_path)
    run = project / "logs" / "batch_norm" / "aa"
    assert find_data(run, complete({"data_path": str(data_path)})) == "."


def test_a_data_folder_without_the_data_set(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data_path: Path
) -> None:
    """Whoever made the run's files does not choose where images are written to."""
    run = project / "logs" / "batch_norm" / "aa"
    monkeypatch.chdir(project / "deeper")
    incomplete = project.parent / "incomplete"
    shutil.copytree(data_path, incomplete)
    (incomplete / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"damaged")
    for recorded, settings in (
        ("../../../../empty", {}),
        ("../../../../missing", {}),
        ("../../../../incomplete", {}),
        ("../../../data", {"dataset": "FashionMNIST"}),
        ("../../../data", {"data_path": str(project.parent / "empty")}),
    ):
        record_data(run, recorded)
        assert find_data(run, complete(settings)) == "data"
        error = capsys.readouterr().err
        assert error.startswith(f"the data folder of {run} does not have ")
        assert error.endswith("): using data\n")
    assert list((project.parent / "empty").iterdir()) == []


def test_the_default_folder_without_the_data_set(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = project / "logs" / "batch_norm" / "aa"
    monkeypatch.chdir(project)
    (project / "data").unlink()
    record_data(run, "../../../data")
    assert find_data(run, complete({})) == "data"  # it is downloaded there again, as in the run
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "content", [None, "", "data_folder: 3", "data_folder: {computed: null}", 'data_folder: {computed: "\\0"}', "[1"]
)
def test_without_a_record_of_the_data_folder(project: Path, content: str | None) -> None:
    run = project / "logs" / "batch_norm" / "aa"
    if content is not None:
        (run / "configs.yaml").write_text(content)
    assert find_data(run, complete({"data_path": "somewhere"})) == "data"
