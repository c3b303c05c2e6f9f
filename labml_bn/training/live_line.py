"""The line on a terminal that follows a run: as much as fits, the most important first."""

import math
import os
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

#: What a terminal without a known size is taken to have.
COLUMNS = 80
#: The shortest progress bar that is drawn.
SHORTEST_BAR = 10


class LiveLine(tqdm):  # type: ignore[type-arg]
    """A progress bar behind the numbers, as `tqdm` draws it, if the terminal has room for it.

    tqdm shortens the line from its end, and erases an earlier one with spaces, which a terminal that was made narrower
    wraps. Here the line always fits, and a line that was wrapped is erased first.
    """

    def __str__(self) -> str:
        state = self.format_dict
        parts = [f"{state['prefix']} {state['n'] / state['total']:4.0%}"]
        parts += [state["postfix"]] if state["postfix"] else []
        rate = state["rate"] or (state["n"] - state["initial"]) / state["elapsed"] if state["elapsed"] else 0.0
        if rate:
            left = tqdm.format_interval((state["total"] - state["n"]) / rate)
            parts += [f"{left} left", f"{rate:,.0f} images/s"]
        room = (state["ncols"] or COLUMNS) - 1  # a terminal may wrap a line that fills it
        line = parts[0][:room]
        for part in parts[1:]:
            if len(line) + 2 + len(part) > room:
                return line
            line += f", {part}"
        if room - len(line) > SHORTEST_BAR:
            # No spaces at its end: a terminal does not wrap them with the rest.
            bar = room - len(line) - 1
            line += " " + tqdm.format_meter(state["n"], state["total"], 0, ncols=bar, bar_format="{bar}", ascii="░█")
        return line

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """A function that replaces the last line that it has printed."""
        drawn = 0

        def replace(line: str) -> None:
            nonlocal drawn
            file.write(f"{erase(drawn, columns(file))}{line}")
            file.flush()
            drawn = len(line)

        return replace


def columns(file: Any) -> int:
    """The number of columns of the terminal that the file is."""
    try:
        return os.get_terminal_size(file.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


def erase(drawn: int, columns: int) -> str:
    """The control characters that erase a line of `drawn` characters in front of the cursor.

    If the terminal is narrower now, it has wrapped the line, and the cursor is in its last row. xterm and screen cut it
    off instead. Row by row, because tmux keeps what is erased with all that follows.
    """
    rows = max(1, math.ceil(drawn / columns))
    if "XTERM_VERSION" in os.environ or "STY" in os.environ:
        rows = 1
    return "\r" + "\033[K\033[A" * (rows - 1) + "\033[K"
