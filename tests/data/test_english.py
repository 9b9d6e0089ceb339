"""prep-english: every prompt once, mixed by kind, the same each time, and files that the trainers read."""

import pytest

from jobs.prep_english import JOB
from sdpo.english.prompts import KINDS, prompts
from sdpo.runtime.launch import main
from sdpo.text.records import read_prompts


def test_both_splits_are_written_complete_and_mixed(tmp_path, capsys):
    for folder in ("one", "two"):
        assert main(JOB, ["--out-dir", str(tmp_path / folder)]) == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["README.md", "lengths.png", "report.json", "train.jsonl", "validation.jsonl"]
    for split in ("train", "validation"):
        path = tmp_path / "one" / f"{split}.jsonl"
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
        rows = read_prompts(path, JOB.data_command)
        assert {(row.id, row.prompt) for row in rows} == {(row.id, row.prompt) for row in prompts(split)}
        # TRAIN_N and EVAL_N take the first rows: all kinds have to be among them.
        assert {row.id.rsplit("-", 1)[0] for row in rows[:40]} == set(KINDS)
    capsys.readouterr()
    assert main(JOB, ["--out-dir", str(tmp_path / "one")]) == 1
    assert "FORCE=1" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [["--force"], []])
def test_a_dry_run_writes_nothing(flag, tmp_path):
    assert main(JOB, ["--dry-run", "--out-dir", str(tmp_path / "out"), *flag]) == 0
    assert not (tmp_path / "out").exists()
