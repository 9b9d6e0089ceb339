"""Converts the raw rows of each source into records.

`sources` knows the data sets on the hub; `files`, `json_stream` and `table` read rows; `rows`, `exports` and
`conversation` are pure functions that turn a row into records or into the reason why it is dropped; `report` counts,
`output` writes files, `prepare` and `logs` are the jobs.
"""
