"""Claims about batch normalization, as experiments that can refute them.

Each file of this folder is one claim. Its docstring says what the claim is and who makes it, what is measured, and what
would refute it. Its code comes in the same order: `measure` takes the numbers for one seed, `judge` is the rule that
makes a verdict of the numbers of all seeds, `draw` the figure. `laboratory.py` has what they share, and is all that
needs to be known to read them. `machinery/` runs them, and need not be read.

    python -m experiments                 all experiments: claim, cost, last verdict
    python -m experiments.bias            one of them; python -m experiments bias is the same
    python -m experiments.bias --quick    in seconds, to see that it works
    python -m experiments --all           those that are missing, then RESULTS.md

The result of each is in `results/`: the numbers of every seed, the verdict, and the figure. `RESULTS.md` has them all.
"""
