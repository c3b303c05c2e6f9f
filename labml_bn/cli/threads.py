"""How the threads of OpenMP wait for work: what the user decides, and what the commands that do not train choose."""

import os

#: Environment variables with which the user decides it. GNU OpenMP reads them when torch is imported.
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def decided() -> bool:
    """Whether the user has decided it."""
    return any(name in os.environ for name in VARIABLES)


def let_sleep() -> None:
    """Let them sleep, unless the user has decided: call it before torch is imported.

    A thread that spins occupies a core that another process may need. Evaluations consist of few and large operations,
    so they take no longer with sleeping threads. Training does: see `training/cores.py`.
    """
    if not decided():
        os.environ["OMP_WAIT_POLICY"] = "passive"
