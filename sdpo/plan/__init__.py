"""What a training run will take, from its settings and the model's shape: memory, time, money and disk.

Nothing is loaded and torch is not imported. docs/plan.md describes the formulas and how far they are from what was
measured.
"""
