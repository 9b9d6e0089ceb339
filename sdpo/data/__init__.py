"""Converts the raw rows of each source into records.

`sources` knows the data sets on the hub; `files`, `json_stream` and `table` read rows, `inputs` those of people's own
files; `rows`, `forms` (one file per form), `messages`, `clean` and `conversation` are pure functions that turn a row
into records or into the reason why it is dropped; `redact` and `patterns` replace what is private; `repeats`
writes what several conversations hold once; `report` counts, `output` writes files, `prepare` and `logs` are the jobs.
"""
