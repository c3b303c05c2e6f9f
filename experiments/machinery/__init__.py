"""How experiments are found, run and reported. The experiments can be read without it.

`catalogue.py` finds them, `command.py` is their command line, `trials.py` measures the seeds, each in a process
(`worker.py`), and `results.py` stores the results.
"""
