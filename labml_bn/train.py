"""Train a network with batch normalization on MNIST.

    python -m labml_bn.train                                    the defaults: 10 epochs, Adam at 0.001
    python -m labml_bn.train configs/no_norm.yaml               another experiment, from a config file
    python -m labml_bn.train epochs=1 optimizer.learning_rate=0.01
    python -m labml_bn.train configs/smoke.yaml norm=torch      keys on the command line go over those of the file
    python -m labml_bn.train --resume latest                    go on with a run that was interrupted or killed
    python -m labml_bn.train --resume RUN epochs=20             go on with a run that is finished, for longer
    python -m labml_bn.train --list                             every key, its type, default, options and meaning

The digits are fetched into ./data on the first run. Each run is a new folder in ./logs. A run that Ctrl-C has ended
goes on where it was, one that was killed at its last checkpoint, and both end as if nothing had happened.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from labml_bn.command import Parser, run_command
from labml_bn.errors import UserError

# torch and labml take a second or two to import: --help need not wait for them, and Ctrl-C while they load is caught
# by `run_command`. So they are imported where they are first needed.


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.train", __doc__, hint="settings are written key=value; ")
    parser.add_argument("settings", nargs="*", metavar="[CONFIG.yaml] key=value", help="a config file, and single keys")
    parser.add_argument("--resume", metavar="RUN", help="a run's folder, its uuid or the beginning of it, or `latest`")
    parser.add_argument("--list", action="store_true", help="print every key and exit")
    arguments = parser.parse_intermixed_args()

    from labml_bn import settings

    if arguments.list:
        print(_list_of_keys())
        return
    # Two runs from one seed shall agree to the last bit, on a GPU too. It costs little here, and cuBLAS reads its
    # part of it from the environment.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if arguments.resume is None:
        _train(settings.read(arguments.settings))
    else:
        _resume(arguments.resume, settings.read(arguments.settings, together=False))


def _resume(name: str, given: dict[str, Any]) -> None:
    """Go on with a run from the newest of its checkpoints that can be used."""
    from labml_bn import checkpoint
    from labml_bn.files import folder
    from labml_bn.run_folder import find_run, locked
    from labml_bn.settings import default
    from labml_bn.weights import WEIGHTS

    logs = folder(given.pop("logs_path", default("logs_path")))
    run = find_run(name, logs, having=checkpoint.FILES).resolve()
    with locked(run):
        found = checkpoint.newest(run)
        for complaint in found.complaints:
            print(f"warning: {complaint}; going on from an earlier one", file=sys.stderr)
        settings = checkpoint.changed(found.state, given)
        if found.state["progress"]["epoch"] == settings["epochs"] and (run / WEIGHTS).is_file():
            print(f"the run is finished: its {settings['epochs']} epochs are done (epochs=N goes on up to N)")
        else:
            _train(settings, run, found.state)


def _train(settings: dict[str, Any], run: Path | None = None, resumed: dict[str, Any] | None = None) -> None:
    """Train a new run with these settings, or go on with `run` from the checkpoint `resumed`."""
    import torch

    from labml_bn import checkpoint, dashboard_address, tracking, training, weights
    from labml_bn.console import Console, duration
    from labml_bn.settings import complete
    from labml_bn.stopping import Stop

    c = tracking.prepare(settings, run)
    if c.device.type == "cuda":
        torch.use_deterministic_algorithms(True)
    progress = checkpoint.restore(c, resumed) if resumed else training.Progress()
    print(f"{c.dataset}, {c.train_digits}, norm={c.norm}, on {c.device}", flush=True)
    with tracking.recording(tracking.Position(**resumed["log"]) if resumed else None) as path:
        folder = os.path.relpath(path)
        checkpoints = checkpoint.Checkpoints(path, c, settings, resumed)
        dashboard = dashboard_address.find(path.parent.parent)
        if dashboard is not None:
            print(f"Watch it: {dashboard}/run/{path.name}", flush=True)
        try:
            with Stop() as stop, Console(c.epochs, len(c.train_digits), c.train_batch_size, progress.seen) as console:
                # A run that is killed early goes on too, with the settings that it has now; the weights that it may
                # have are those of an end that it no longer has.
                if checkpoints.save(progress, None) and progress.epoch < c.epochs:
                    (path / weights.WEIGHTS).unlink(missing_ok=True)
                test = training.train(c, console, progress, checkpoints.save, stop)
        except KeyboardInterrupt as interrupt:
            raise type(interrupt)(f"go on with: python -m labml_bn.train --resume {shlex.quote(folder)}") from None
        except training.DivergedError as error:
            raise UserError(
                f"{error}. {checkpoints.last_good()}; a new run may do better with a lower optimizer.learning_rate"
            ) from error
        weights.save_weights(path / weights.WEIGHTS, c.model, complete(settings))
        elapsed = tracking.elapsed()
    if test is not None:  # else all was done, but the weights were not kept yet
        print(f"Final accuracy {test.accuracy:.2%} ({test.correct} of {test.images}) in {duration(elapsed)}")
    print(f"Run: {folder}")
    print("Look at it:")
    logs = os.path.relpath(path.parent.parent)
    where = "" if logs == "logs" else f" --logs {shlex.quote(logs)}"
    for command in ("evaluate RUN", "predict RUN IMAGE.png", f"compare RUN latest:5{where}", f"dashboard{where}"):
        print(f"  python -m labml_bn.{command.replace('RUN', shlex.quote(folder))}")
    if stop.asked is not None:
        raise type(stop.asked)("the run was at its end, and is finished")


def _list_of_keys() -> str:
    from labml_bn.console import table
    from labml_bn.settings import KEYS, Range, default

    rows = [["key", "type", "default", "options", "meaning"]]
    for name, key in KEYS.items():
        options = key.takes.words if isinstance(key.takes, Range) else ", ".join(key.takes or ())
        rows.append([name, key.type.__name__, str(default(name)), options, key.meaning])
    return table(rows)


if __name__ == "__main__":
    run_command(main)
