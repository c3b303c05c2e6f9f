"""Train a network with batch normalization on MNIST.

    python -m labml_bn.train                                    the defaults: 10 epochs, Adam at 0.001
    python -m labml_bn.train configs/no_norm.yaml               another experiment, from a config file
    python -m labml_bn.train epochs=1 optimizer.learning_rate=0.01
    python -m labml_bn.train configs/smoke.yaml norm=torch      keys on the command line go over those of the file
    python -m labml_bn.train --list                             every key, its type, default, options and meaning

The digits are fetched into ./data on the first run. Each run is a new folder in ./logs.
"""

import os
import shlex
from typing import Any

from labml_bn.command import Parser, run_command

# torch and labml take a second or two to import: --help need not wait for them, and Ctrl-C while they load is caught
# by `run_command`. So they are imported where they are first needed.


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.train", __doc__, hint="settings are written key=value; ")
    parser.add_argument("settings", nargs="*", metavar="[CONFIG.yaml] key=value", help="a config file, and single keys")
    parser.add_argument("--list", action="store_true", help="print every key and exit")
    arguments = parser.parse_args()

    from labml_bn import settings

    if arguments.list:
        print(_list_of_keys())
    else:
        _train(settings.read(arguments.settings))


def _train(settings: dict[str, Any]) -> None:
    # Two runs from one seed shall agree to the last bit, on a GPU too. It costs little here, and cuBLAS reads its
    # part of it from the environment.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from labml_bn import checkpoint, dashboard_address, tracking, training
    from labml_bn.console import Console, duration
    from labml_bn.settings import complete

    c = tracking.prepare(settings)
    if c.device.type == "cuda":
        torch.use_deterministic_algorithms(True)
    print(f"{c.dataset}, {c.train_digits}, norm={c.norm}, on {c.device}", flush=True)
    with tracking.recording() as path:
        folder = os.path.relpath(path)
        dashboard = dashboard_address.find(path.parents[1])
        if dashboard is not None:
            print(f"Watch it: {dashboard}/run/{path.name}", flush=True)
        try:
            with Console(c.epochs, len(c.train_digits), c.train_batch_size) as console:
                test = training.train(c, console)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the run so far is in {folder}") from None
        checkpoint.save_weights(path / checkpoint.WEIGHTS, c.model, complete(settings))
    print(f"Final accuracy {test.accuracy:.2%} ({test.correct} of {test.images}) in {duration(console.elapsed)}")
    print(f"Run: {folder}")
    print("Look at it:")
    for command in ("evaluate RUN", "predict RUN IMAGE.png", "compare RUN latest:5", "dashboard"):
        print(f"  python -m labml_bn.{command.replace('RUN', shlex.quote(folder))}")


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
