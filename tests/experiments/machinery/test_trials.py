"""What is stored of the seeds, what of it is used again, and how long measuring took."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tqdm import tqdm

from experiments.machinery import catalogue
from experiments.machinery.trials import Trials, dumped, found, seconds, store
from labml_bn.cli.errors import UserError

SIZE = {"batch": 16, "channels": 4}


def trials(seeds: int = 2, **size: int) -> Trials:
    return Trials(catalogue.find("bias"), seeds, {**SIZE, **size}, Path("logs"))


def test_measured_in_processes_and_stored() -> None:
    """Each process begins with its seed; what is stored is not measured again, and what is damaged is."""
    bar = tqdm(disable=True)
    trials().measure(2, bar)
    first = {path.name: path.read_text() for path in trials().folder.iterdir()}
    assert sorted(first) == ["1.json", "2.json"]
    assert len({json.loads(text)["measured"]["linear: gradient of the bias"] for text in first.values()}) == 2
    (trials().folder / "2.json").write_text("{")
    trials(seeds=3).measure(1, bar)
    second = {path.name: path.read_text() for path in trials().folder.iterdir()}
    assert sorted(second) == ["1.json", "2.json", "3.json"]
    assert second["1.json"] == first["1.json"]
    assert json.loads(second["2.json"])["measured"] == json.loads(first["2.json"])["measured"]


def test_another_size_is_another_measurement() -> None:
    assert trials().key == trials(seeds=5).key != trials(batch=17).key


def test_a_seed_that_fails() -> None:
    """One line with the experiment, the seed and the reason."""
    with pytest.raises(UserError, match=r"^bias, seed 1: .+"):
        trials(seeds=1, nonsense=1).measure(1, tqdm(disable=True))
    assert not trials(seeds=1, nonsense=1).stored()


def test_values_as_json(tmp_path: Path) -> None:
    """NaN and infinity come back as NaN."""
    content = {"measured": {"x": torch.tensor([1.0, math.nan]), "y": np.float64(2), "z": math.inf}}
    store(tmp_path / "new" / "1.json", content)
    text = (tmp_path / "new" / "1.json").read_text()
    assert json.loads(text) == {"measured": {"x": [1.0, None], "y": 2.0, "z": None}}
    back = found({1: json.loads(text), 2: json.loads(text)})
    np.testing.assert_array_equal(back["x"], [[1, np.nan]] * 2)
    np.testing.assert_array_equal(back["z"], [np.nan, np.nan])
    with pytest.raises(TypeError):
        dumped(object())


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*1\.json: "):
        store(tmp_path / "file" / "1.json", {})


@pytest.mark.parametrize(
    ("spans", "expected"),
    [([(0, 2), (1, 4)], 4), ([(0, 2), (10, 11)], 3), ([(5, 9), (6, 7)], 4), ([], 0)],
    ids=["overlapping", "interrupted", "within", "none"],
)
def test_seconds(spans: list[tuple[int, int]], expected: float) -> None:
    assert seconds({n: {"started": a, "ended": b} for n, (a, b) in enumerate(spans)}) == expected
