"""When validations, checkpoints and the ends of epochs are due, against counting them one by one."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labml_bn.training.schedule import Schedule

SCHEDULES = st.builds(Schedule, steps=st.integers(1, 60), parts=st.integers(1, 40), interval=st.integers(1, 90))


@given(SCHEDULES)
def test_each_part_ends_at_the_first_step_that_completes_it(schedule: Schedule) -> None:
    steps = range(1, schedule.steps + 1)
    parts = [Fraction(part, schedule.parts) for part in range(1, schedule.parts + 1)]
    ends = {min(step for step in steps if Fraction(step, schedule.steps) >= part) for part in parts}
    assert {step for step in steps if schedule.validation_due(step)} == ends
    assert schedule.validation_due(schedule.steps)


@given(SCHEDULES, st.integers(0, 3000))
def test_the_shares_of_an_epoch_are_all_images_once(schedule: Schedule, images: int) -> None:
    shares = [schedule.share(step, images) for step in range(1, schedule.steps + 1) if schedule.validation_due(step)]
    assert [image for share in shares for image in share] == list(range(images))


@given(SCHEDULES)
def test_a_checkpoint_is_due_after_each_interval(schedule: Schedule) -> None:
    completed, due = 0, 0
    for epoch in range(4):
        for step in range(1, schedule.steps + 1):
            completed = epoch * schedule.parts + schedule.parts_done(step)
            due += schedule.checkpoint_due(epoch, step)
            if schedule.checkpoint_due(epoch, step):
                assert schedule.validation_due(step)
    # Several intervals that end at one step make one checkpoint.
    if schedule.steps >= schedule.parts:
        assert due == completed // schedule.interval
    assert due <= completed // schedule.interval


@pytest.mark.parametrize(
    ("interval", "epochs", "due"),
    [
        (10, 2, [(0, 938), (1, 938)]),  # once an epoch
        (20, 4, [(1, 938), (3, 938)]),  # every second epoch
        (5, 1, [(0, 469), (0, 938)]),
    ],
)
def test_the_default_epoch(interval: int, epochs: int, due: list[tuple[int, int]]) -> None:
    schedule = Schedule(steps=938, parts=10, interval=interval)
    places = [(epoch, step) for epoch in range(epochs) for step in range(1, 939)]
    assert [place for place in places if schedule.checkpoint_due(*place)] == due
    assert [step for step in range(1, 939) if schedule.epoch_ends(step)] == [938]
