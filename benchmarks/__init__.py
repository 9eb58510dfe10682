"""Benchmarks that anyone can rerun: turnlog beside the bare machine, in one run, as ratios."""
