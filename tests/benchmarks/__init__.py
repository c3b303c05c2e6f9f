"""Speed, as ratios measured in one run; no test compares times."""
