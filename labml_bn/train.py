"""Train a network with batch normalization on MNIST.

    python -m labml_bn.train                                    the defaults: 10 epochs, Adam at 0.001
    python -m labml_bn.train configs/no_norm.yaml               another experiment, from a config file
    python -m labml_bn.train no_norm                            the same, from any folder
    python -m labml_bn.train epochs=1 optimizer.learning_rate=0.01
    python -m labml_bn.train configs/smoke.yaml norm=torch      keys on the command line override the file
    python -m labml_bn.train --resume latest                    resume a run that was interrupted or killed
    python -m labml_bn.train --resume RUN epochs=20             resume a finished run, for more epochs
    python -m labml_bn.train --like RUN seed=6                  a new run with the settings of another, but this seed
    python -m labml_bn.train --list                             every key, its type, default, options and meaning

The first run downloads the data set to ./data. Each run is a new folder in ./logs. A run that was interrupted by
Ctrl-C resumes at the same step, one that was killed at its last checkpoint; the result is the same as without the
interruption.
"""

import os
import shlex

from labml_bn.cli.command import Parser, run_command

# torch and labml take a second or two to import: --help does not wait for them, and Ctrl-C while they are imported is
# handled by `run_command`. So they are imported when they are first needed.


def main() -> None:
    """The command."""
    parser = Parser("labml_bn.train", __doc__, hint="settings are written key=value; ")
    parser.add_argument("settings", nargs="*", metavar="[CONFIG.yaml] key=value", help="a config file, and single keys")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", metavar="RUN", help="a run's folder, its uuid or the beginning of it, or `latest`")
    earlier.add_argument("--like", metavar="RUN", help="train a new run with the settings of this one")
    parser.add_argument("--list", action="store_true", help="print every key and exit")
    arguments = parser.parse_intermixed_args()

    from labml_bn import settings

    if arguments.list:
        print(_list_of_keys())
        return
    given = settings.read(arguments.settings, together=arguments.resume is None and arguments.like is None)

    from labml_bn.cli.output import continue_without_output
    from labml_bn.cli.text import duration, printable

    continue_without_output()  # `train | head` loses the lines, not the run
    from labml_bn.training import run

    if arguments.like is not None:
        given = run.settings_of(arguments.like, given)
    finished = run.start(given) if arguments.resume is None else run.resume(arguments.resume, given)
    if finished is None:
        return
    if finished.test is not None:
        correct = f"{finished.test.correct} of {finished.test.images}"
        print(f"Final accuracy {finished.test.accuracy:.2%} ({correct}) in {duration(finished.elapsed)}")
        if finished.guesses:
            print("This cannot be told from guessing: try another learning rate (lr=...) or optimizer, or more epochs.")
    folder, logs = os.path.relpath(finished.folder), os.path.relpath(finished.folder.parent.parent)
    where = "" if logs == "logs" else f" --logs {shlex.quote(logs)}"
    print(printable(f"Run: {folder}"))
    print("Look at it:")
    for command in ("evaluate RUN", "predict RUN IMAGE.png", f"compare RUN latest:5{where}", f"dashboard{where}"):
        print(printable(f"  python -m labml_bn.{command.replace('RUN', shlex.quote(folder))}"))


def _list_of_keys() -> str:
    from labml_bn.cli.text import table, terminal_width
    from labml_bn.settings import KEYS, Range, as_typed, short

    rows = [["key", "short", "default", "type", "options", "meaning"]]
    for name, key in KEYS.items():
        options = key.takes.words if isinstance(key.takes, Range) else ", ".join(key.takes or ())
        brief = "" if short(name) == name else short(name)
        rows.append([name, brief, as_typed(key.default), key.type.__name__, options, key.meaning])
    return table(rows, terminal_width())


if __name__ == "__main__":
    run_command(main)
