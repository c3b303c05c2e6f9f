"""What `compare` shows of several runs: means over seeds with their intervals, as a table and as pictures."""
