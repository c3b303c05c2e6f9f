"""Several runs in one command: the notation on the command line and in a config file, and the grid."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_bn.cli.errors import UsageError
from labml_bn.settings import as_typed, grid_of, read, read_grid
from labml_bn.settings.sweeping import MOST_RUNS


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("norm=batch_norm,none", ["batch_norm", "none"]),
        ("lr=0.001, 1e-2", [0.001, 0.01]),
        ("seed=1..5", [1, 2, 3, 4, 5]),
        ("seed=1..3,7,10..11", [1, 2, 3, 7, 10, 11]),
        ("lr=1..2", [1.0, 2.0]),
        ("betas=[0.9,0.999],[0.8,0.9]", [[0.9, 0.999], [0.8, 0.9]]),
        ("norm='none',\"torch\"", ["none", "torch"]),
        ("use_cuda=true,false", [True, False]),
        ("layers=20C5-P2-500N, P2", ["20C5-P2-500N", "P2"]),
    ],
)
def test_several_values(argument: str, values: list[Any]) -> None:
    (swept,) = read_grid([argument]).swept.values()
    assert swept == values


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("betas=[0.8,0.9]", [0.8, 0.9]),
        ("data_path=../x", "../x"),
        ("data_path=1..x", "1..x"),
        ("data_path='1..3'", "1..3"),
        ('data_path="a,b"', "a,b"),
        ("data_path='it''s, here'", "it's, here"),
        ("data_path='it\"s, here'", 'it"s, here'),
        ("data_path=\" 'x' \"", " 'x' "),
        ("data_path=it's", "it's"),
        ("data_path=[a,b]/c", "[a,b]/c"),
        ("data_path= x", " x"),
        ("lr='0.1'", 0.1),
        ("seed=4..4", 4),
    ],
)
def test_one_value(argument: str, value: Any) -> None:
    grid = read_grid([argument])
    assert (list(grid.settings.values()), grid.swept) == ([value], {})


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_what_is_shown_can_be_typed(text: str) -> None:
    assert read([f"data_path={as_typed(text)}"]) == {"data_path": text}


@given(st.text("'\",.[]1x- \n"))
def test_any_text_is_read_or_refused(text: str) -> None:
    for key in ("data_path", "seed", "betas"):
        with contextlib.suppress(UsageError):
            read_grid([f"{key}={text}"]).check()


def test_the_order() -> None:
    """The last key varies fastest; a key that is written again takes its new place."""
    grid = read_grid(["norm=none,torch", "epochs=3", "seed=1..2"])
    assert [(run["norm"], run["seed.seed"], run["epochs"]) for run in grid.combinations()] == [
        ("none", 1, 3),
        ("none", 2, 3),
        ("torch", 1, 3),
        ("torch", 2, 3),
    ]
    assert [grid.label(run) for run in grid.combinations()][:2] == ["norm=none seed=1", "norm=none seed=2"]
    assert (len(grid), grid.name()) == (4, "norm-seed")
    assert list(read_grid(["norm=none,torch", "seed=1..2", "norm=torch,none"]).swept) == ["seed.seed", "norm"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.yaml"


def test_in_a_file(file: Path) -> None:
    file.write_text(
        "epochs: 3\nsweep:\n  lr: [1e-3, 0.01]\n  seed.seed: 1..2\n"
        "  optimizer:\n    betas: [[0.9, 0.999], [0.8, 0.9]]\n  norm: none\n"
    )
    grid = read_grid([str(file), "keep=1"])
    assert grid.settings == {"epochs": 3, "keep": 1}
    assert grid.swept == {
        "optimizer.learning_rate": [0.001, 0.01],
        "seed.seed": [1, 2],
        "optimizer.betas": [[0.9, 0.999], [0.8, 0.9]],
        "norm": ["none"],
    }
    assert grid.name() == "lr-seed-betas"
    replaced = read_grid([str(file), "lr=0.1", "seed=7..9", "betas=[0.5,0.5]"])
    assert replaced.settings == {"epochs": 3, "optimizer.learning_rate": 0.1, "optimizer.betas": [0.5, 0.5]}
    assert replaced.swept == {"norm": ["none"], "seed.seed": [7, 8, 9]}
    assert grid_of(grid.settings, grid.swept) == grid


def test_a_file_with_one_combination(file: Path) -> None:
    file.write_text("sweep: {seed: 3}")
    grid = read_grid([str(file)])
    assert (grid.swept, grid.name()) == ({"seed.seed": [3]}, "seed")
    file.write_text("sweep:\nepochs: 1\n")
    assert read_grid([str(file)]).swept == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=5..1"], "seed.seed=5..1 is empty: write the smaller number first"),
        (["lr=0.1,0.10"], "optimizer.learning_rate=0.1 is given twice"),
        (["seed=1..3,2"], "seed.seed=2 is given twice"),
        (["norm=none,'torch"], 'norm: "\'torch" has no closing quote'),
        (["norm='none'x,torch"], "norm: \"'none'x,torch\" has no closing quote at its end, or before a comma"),
        (["betas=[0.9,0.999],[0.8,0.9"], "optimizer.betas: '[0.8,0.9' has no closing bracket"),
        (["betas=0.8,0.9"], "optimizer.betas must be a list like [0.8,0.9], got 0.8"),
        (["lr=0.1,"], "optimizer.learning_rate must be a number, got nothing"),
        (["lr=0.1,-1"], "optimizer.learning_rate must be greater than 0, at most 1e6, got -1.0"),
        (["norm=none,layer"], "norm must be one of batch_norm, torch, none, got 'layer'"),
        (["logs_path=a,b"], "logs_path cannot vary within a sweep"),
        (["data_path=a,b"], "data_path cannot vary within a sweep"),
        (["seed=1..100001"], "these are 100,001 runs: a sweep can have at most 100,000"),
        (["seed=1..999999999999999999"], "these are 999,999,999,999,999,999 runs: a sweep can have at most 100,000"),
        (["seed=1..1000", "epochs=1..1000"], "these are 1,000,000 runs: a sweep can have at most 100,000"),
        (
            ["norm=none,torch", "train_batch_size=1,2"],
            "norm=torch batch_size=1: train_batch_size=1 makes a batch of one image",
        ),
        (["norm=none,torch", "population_samples=10"], "norm=none: population_samples=10 needs a normalization"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_grid(arguments).check()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sweep: [1]", "sweep: expected lines of the form `key: [value, value]`"),
        ("sweep: {seed: []}", "seed.seed has no values in sweep"),
        ("sweep: {seed: }", "seed.seed must be an integer, got nothing"),
        ("sweep: {seed: [1, 1]}", "seed.seed=1 is given twice"),
        ("sweep: {seed: 3..1}", "seed.seed=3..1 is empty"),
        ("sweep: {sede: [1, 2]}", "unknown key 'sede': did you mean seed.seed?"),
        ("sweep: {lr: [0]}", "optimizer.learning_rate must be greater than 0"),
        ("sweep: {betas: [0.8, 0.9]}", "optimizer.betas must be a list like [0.8,0.9], got 0.8"),
        ("seed: 1\nsweep: {seed.seed: [2, 3]}", "seed.seed is given twice: write it once"),
        ("sweep: {seed: [1, 2], seed.seed: [3]}", "seed.seed is given twice: write it once"),
        ("sweep: {logs_path: [a]}", "logs_path cannot vary within a sweep"),
    ],
)
def test_mistakes_in_a_file(content: str, message: str, file: Path) -> None:
    file.write_text(content)
    with pytest.raises(UsageError) as raised:
        read_grid([str(file)])
    assert str(raised.value).startswith(f"{file}: {message}")


def test_as_many_as_are_allowed() -> None:
    grid = read_grid([f"seed=1..{MOST_RUNS}"])
    grid.check()
    assert len(grid) == MOST_RUNS


def test_one_run_only() -> None:
    with pytest.raises(UsageError, match=r"^seed.seed has several values \(2\), and this is one run: write one value$"):
        read(["seed=1..2"])
