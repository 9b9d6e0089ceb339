"""Benchmark tasks of our own, as lm-eval task files. `python -m lm_eval --include_path` takes this folder too."""
