"""When a validation, a checkpoint and the end of an epoch are due: pure functions of the number of steps.

`loop.py` also saves a checkpoint at the end and after Ctrl-C, `run.py` one before the first batch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """An epoch of `steps` steps, cut into `parts` parts as equal as possible, with a validation after each part.

    A checkpoint is due after every `interval` parts, counted over all epochs. With more parts than steps, several
    parts end at the same step.
    """

    steps: int
    parts: int
    interval: int

    def parts_done(self, step: int) -> int:
        """The number of parts that are completed after `step` steps of an epoch."""
        return step * self.parts // self.steps

    def validation_due(self, step: int) -> bool:
        """Whether a part of the epoch ends with its step number `step` (from 1)."""
        return self.parts_done(step - 1) < self.parts_done(step)

    def checkpoint_due(self, epoch: int, step: int) -> bool:
        """Whether a multiple of `interval` parts ends with step `step` (from 1) of epoch `epoch` (from 0)."""
        before, after = (epoch * self.parts + self.parts_done(number) for number in (step - 1, step))
        return before // self.interval < after // self.interval

    def epoch_ends(self, step: int) -> bool:
        """Whether `step` is the last step of an epoch."""
        return step == self.steps

    def share(self, step: int, images: int) -> range:
        """Which of `images` test images the validation after step `step` covers: the next part of them."""
        first, last = (images * self.parts_done(number) // self.parts for number in (step - 1, step))
        return range(first, last)
