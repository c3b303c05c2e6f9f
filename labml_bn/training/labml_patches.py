"""Work-arounds for labml 0.5.3 during training, each with its reason.

`log.py` replaces labml's writer; work-arounds for its dashboard are in `dashboard/`.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from labml import experiment, lab
from labml.internal import util
from labml.internal.monitor import monitor_singleton


def silence_monitor() -> None:
    """labml 0.5.3 reports each part that it computes, with colours and carriage returns, even into a file."""
    monitor_singleton().silent()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """labml 0.5.3 prints a greeting with escape codes, even into a file; the commands print their own.

    In a notebook it would print HTML, by an import that IPython 9 no longer has, and look for the code's repository in
    the notebook's folder. It recognizes a notebook by `get_ipython`, so that name is hidden from it.
    """
    util.get_ipython = _not_in_a_notebook
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        del util.get_ipython


def _not_in_a_notebook() -> None:
    raise NameError("get_ipython")


def create_experiment(package: Path, arguments: dict[str, Any]) -> None:
    """Create an experiment, with the commit of the repository that `package` is in, if there is one.

    labml 0.5.3 fails if git refuses to read the repository, for example because another user owns it. Then the
    experiment is created without a commit. GitPython's errors cannot be named here: without git it cannot be imported.
    """
    try:
        lab.configure({"path": str(package.parent)})
        experiment.create(**arguments)
    except Exception:
        lab.configure({"path": str(package)})
        experiment.create(**arguments)


def keep_run_info(run: Any) -> None:
    """labml 0.5.3 rewrites `run.yaml` when an experiment starts; a resumed run keeps its original start time."""
    run.pid_path.unlink(missing_ok=True)
    run.save_info = lambda: run.pid_path.write_text(str(run.pid))


def add_to_info(run: Any, entries: dict[str, Any]) -> None:
    """labml 0.5.3 writes only its own entries to `run.yaml`; this adds others.

    They are the order of the run, because its start time is by a clock that may have gone back, and its sweep.
    """
    info = run.to_dict
    run.to_dict = lambda: {**info(), **entries}


def start_experiment() -> None:
    """Start the experiment. labml 0.5.3 creates `~/.labml`, which fails if two processes do so at the same time.

    Raises OSError if a file cannot be written.
    """
    with quiet(), FileLock(Path.home() / ".labml.lock", timeout=60):
        experiment.start()
