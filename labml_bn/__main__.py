"""All commands as one: `labml-bn COMMAND ...`, or `python -m labml_bn COMMAND ...`.

Each is also a module of its own: `python -m labml_bn.COMMAND ...`. `labml-bn COMMAND --help` explains it.
"""

import difflib
import importlib
import sys
from types import ModuleType
from typing import NoReturn

from labml_bn.cli.command import Parser, run_command
from labml_bn.cli.errors import UsageError

#: The commands in the order in which they are used.
COMMANDS = ("train", "runs", "compare", "evaluate", "diagnose", "predict", "export", "dashboard")


def main() -> None:
    """Run the command that is named."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["help"]:
        sys.argv[1:] = arguments = ["--help"]
    if not arguments or arguments[0].startswith("-"):
        parser = Parser("labml_bn", f"{__doc__}\n{_commands()}")
        parser.prog = "labml-bn"
        parser.add_argument("command", metavar="COMMAND", help=", ".join(COMMANDS))
        parser.parse_args()
    name = arguments[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise UsageError(f"{name!r} is not a command: {hint}")
    del sys.argv[1]
    _module(name).main()


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"labml_bn.{name}.__main__" if name == "dashboard" else f"labml_bn.{name}")


def _commands() -> str:
    """The first line of each command's documentation."""
    return "\n".join(f"  {name:<10} {(_module(name).__doc__ or '').splitlines()[0]}" for name in COMMANDS)


def run() -> NoReturn:
    """The console script `labml-bn`."""
    run_command(main)


if __name__ == "__main__":
    run()
