"""What a user would run instead: small programs, which `python -m tests.benchmarks.epoch` compares with ours.

Each trains the network of `labml_bn.models` for an epoch (Adam at 0.001, batches of 64), validates it on the test
images, and prints one line of JSON last: `loop_seconds`, `accuracy`, and `not_counted_seconds`, which it spent on the
benchmark's behalf. The images must be on the disk. They run on the CPU.
"""
