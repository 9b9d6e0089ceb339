"""Runs the preparation jobs in this process, writes their input files and reads their output."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from jobs import prep_helpsteer, prep_logs, prep_tldr, prep_wildchat, prep_wildfeedback
from sdpo.data import logs
from sdpo.runtime import launch
from sdpo.settings.resolve import resolve

OUTPUTS = {
    prep_tldr: ["train.jsonl", "validation.jsonl"],
    prep_helpsteer: ["train.jsonl", "validation.jsonl"],
    prep_wildfeedback: ["wildfeedback_interactions.jsonl"],
    prep_wildchat: ["wildchat_interactions_v1.jsonl"],
    prep_logs: ["logs_interactions.jsonl"],
}


def name_of(module):
    return module.JOB.name


def run(module, *arguments, expect=0):
    """Run a job in this process and return the folder it wrote to."""
    assert launch.main(module.JOB, ["--out-dir", "out", *arguments]) == expect
    return Path("out")


def run_unchecked(path, out):
    """Run prep-logs on a file without what a job does around it: errors are raised, earlier output is replaced."""
    flags = ["--input", str(path), "--out-dir", str(out), "--force"]
    logs.run(resolve(prep_logs.JOB.settings, flags, job=prep_logs.JOB.name, environment={}), prep_logs.JOB)


def rows_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


def report_of(folder):
    report = json.loads((folder / "report.json").read_text())
    for counts in report["counts"].values():
        assert counts["seen"] == counts["kept"] + sum(counts["dropped"].values())
    return report


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        columns = {name: [row.get(name) for row in rows] for row in rows for name in row}
        pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=300)
        return
    text = "".join(json.dumps(row, default=str, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
