"""Experiments: each module has `run(...)` -> measurements and `plot(...)` -> figure."""
