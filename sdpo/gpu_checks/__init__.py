"""Checks of what only a GPU shows: training in bf16, adapters, sharding, serving, memory, and speed by model size.

`registry` lists the checks, `job` runs them, each in a process of its own, and writes the results. What a CPU can run
is run there by the same code, on small shapes.
"""
