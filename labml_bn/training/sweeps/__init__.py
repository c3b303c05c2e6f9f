"""Many runs in one command. `sweep.py` is what `train` calls: read it first.

`definition.py` is the file with the settings of a sweep, `plan.py` compares them with the runs that there are,
`pool.py` trains what is missing in several processes (`jobs.py`, `worker.py`), and `console.py` shows how far they are.
"""
