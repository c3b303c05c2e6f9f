"""Which runs belong together: those whose settings differ only in the seed, or in what does not change the numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labml_bn.records.record import DIVERGED, Record
from labml_bn.settings import KEYS, WITHOUT_EFFECT, name_of

#: The settings in which the runs of a group may differ.
WITHIN = frozenset({"seed.seed", *WITHOUT_EFFECT, "device.use_cuda", "device.cuda_device"})

#: The settings that choose the test images. Accuracies and losses on different images cannot be compared.
TEST_IMAGES = ("dataset", "valid_samples")

_BETWEEN = [key for key in KEYS if key not in WITHIN]


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    `runs` has one run for each seed, sorted by it. Those that diverged are in `diverged`, and in no mean. If a seed was
    run again, the newest run counts, and the others are in `older`.
    """

    name: str
    settings: Mapping[str, Any]
    runs: tuple[Record, ...]
    diverged: tuple[Record, ...]
    older: tuple[Record, ...]

    @property
    def all_runs(self) -> tuple[Record, ...]:
        """Every run of the group."""
        return self.runs + self.diverged + self.older


def group_runs(runs: Sequence[Record]) -> list[Group]:
    """The groups of some runs, in the order of their first runs."""
    together: dict[tuple[str, ...], list[Record]] = {}
    for run in runs:
        together.setdefault(tuple(str(run.settings[key]) for key in _BETWEEN), []).append(run)
    names = _names(list(together.values()))
    return [_group(name, members) for name, members in zip(names, together.values(), strict=True)]


def differing(runs: Sequence[Record], keys: Iterable[str] = _BETWEEN) -> list[str]:
    """Those of the settings `keys` that differ between these runs; by default those that differ between groups."""
    return [key for key in keys if len({str(run.settings[key]) for run in runs}) > 1]


def name_by(keys: Sequence[str], settings: Mapping[str, Any]) -> str:
    """A name from these settings only, even if they have their defaults; the normalization if there are none."""
    words = name_of({key: settings[key] for key in ("norm", *keys)}, also=keys)
    return words if "norm" in keys or not keys else words.partition(" ")[2]


def is_tested_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether runs with these settings are tested on the same images."""
    return all(one[key] == other[key] for key in TEST_IMAGES)


def about_test_images(runs: Sequence[Record]) -> list[str]:
    """A sentence that these runs are tested on different images, if they are."""
    keys = [key for key in differing(runs) if key in TEST_IMAGES]
    if not keys:
        return []
    return [f"Accuracies and losses on different test images cannot be compared (they differ in {' and '.join(keys)})."]


def _group(name: str, runs: Sequence[Record]) -> Group:
    newest: dict[int, Record] = {}
    for run in sorted(runs, key=lambda run: run.started):  # stable: of the same time, the one given last is the newest
        newest[run.settings["seed.seed"]] = run
    by_seed = [newest[seed] for seed in sorted(newest)]
    return Group(
        name,
        runs[0].settings,
        tuple(run for run in by_seed if run.status != DIVERGED),
        tuple(run for run in by_seed if run.status == DIVERGED),
        tuple(run for run in runs if all(run is not counted for counted in by_seed)),
    )


def _names(groups: Sequence[Sequence[Record]]) -> list[str]:
    """A name for each group: the one that the user has given all its runs, or else what differs between the groups."""
    keys = differing([members[0] for members in groups])
    given = [{run.given_name for run in members} for members in groups]
    names = []
    for members, own in zip(groups, given, strict=True):
        (name, *others) = own
        if name and not others and given.count(own) == 1:
            names.append(name)
        elif len(groups) == 1:
            names.append(name_of({key: members[0].settings[key] for key in _BETWEEN}))
        else:
            names.append(name_by(keys, members[0].settings))
    return names
