"""Raw rows of each source become records.

`sources` knows the hub, `files`, `documents` and `table` read; `rows`, `exports` and `conversation` are pure and turn
what was read into records or into the reason why not; `report` counts, `output` writes, `prepare` is the jobs.
"""
