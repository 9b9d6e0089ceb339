"""The WildChat preparation job against a simple loop over the same rows: rows per second and peak memory.

    python benchmarks/wildchat.py [--conversations 50000 100000 200000 400000] [--folder DIR]

The loop does what a straightforward script does: load the file with `datasets`, shuffle its index, iterate over the
rows, filter, and write a line for each interaction. The job includes its report and figure; its early stop is off.
Both start from the same parquet file with every column of the source, each in a process of its own, so that their peak
memory can be compared. Needs three times about 3 KB of disk space per conversation.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random

_BLOCK = 10_000  # distinct conversations; a larger file repeats them under other ids


def write_source(path: Path, conversations: int) -> None:
    """Write a parquet file like the source: the same columns and similar languages, numbers of turns and lengths."""
    import pyarrow
    import pyarrow.parquet

    rng = Random(0)
    words = " ".join("".join(rng.choices("etaoinshrdlucmfw", k=rng.randrange(2, 10))) for _ in range(200_000))
    block = pyarrow.Table.from_pylist([_row(rng, words) for _ in range(_BLOCK)])
    column = block.schema.get_field_index("conversation_id")
    with pyarrow.parquet.ParquetWriter(path, block.schema) as writer:
        for start in range(0, conversations, _BLOCK):
            names = pyarrow.array([f"{number:032x}" for number in range(start, start + _BLOCK)])
            writer.write_table(block.set_column(column, "conversation_id", names).slice(0, conversations - start))


def _row(rng: Random, words: str) -> dict:
    def text(typical: float) -> str:
        start = rng.randrange(len(words) - 20_000)
        return words[start : start + min(20_000, int(typical * rng.lognormvariate(0, 1)))] or "x"

    english, turns = rng.random() < 0.55, 1 + int(rng.expovariate(1 / 1.5))
    flags = {"language": "English" if english else "Chinese", "redacted": False, "toxic": rng.random() < 0.1}
    messages = [(role, text(typical)) for _ in range(turns) for role, typical in (("user", 150), ("assistant", 900))]
    scores = {name: rng.random() for name in ("harassment", "hate", "self-harm", "sexual", "violence")}
    return {
        "conversation_id": "", "model": "gpt-3.5-turbo-0301", "timestamp": datetime.fromtimestamp(1.68e9, UTC),
        "conversation": [{"content": text, "role": role, **flags} for role, text in messages], "turn": turns,
        "language": flags["language"],
        "openai_moderation": [
            {"categories": dict.fromkeys(scores, False), "category_scores": scores, "flagged": False} for _ in messages
        ],
        "detoxify_moderation": [scores for _ in messages], "toxic": flags["toxic"], "redacted": False,
    }  # fmt: skip


def loop(source: Path, folder: Path) -> int:
    """Write the interactions with a simple loop and return their number."""
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(source), split="train", cache_dir=str(folder / "cache"))
    rows = rows.select_columns(["conversation_id", "model", "timestamp", "conversation", "language"])
    written = 0
    with (folder / "loop.jsonl").open("w", encoding="utf-8") as file:
        for row in rows.shuffle(seed=42):
            turns = [(message["role"], (message["content"] or "").strip()) for message in row["conversation"]]
            turns = [(role, text) for role, text in turns if text]
            if row["language"] != "English" or len(turns) < 3 or sum(len(text) for _, text in turns) > 100_000:
                continue
            if any(len(text) > 4096 for _, text in turns):
                continue
            for index in range(1, len(turns) - 1):
                if turns[index][0] != "assistant" or turns[index + 1][0] != "user":
                    continue
                history = turns[max(0, index - 5) : index]
                history = history[1:] if history[0][0] == "assistant" else history
                interaction = {
                    "id": f"{row['conversation_id']}_{index}", "conversation_id": row["conversation_id"],
                    "turn_id": index, "model": row["model"], "timestamp": row["timestamp"].isoformat(),
                    "prompt": [{"role": role, "content": text} for role, text in history],
                    "completion": turns[index][1], "user_response": turns[index + 1][1],
                    "prompt_length": sum(len(text) for _, text in history),
                    "completion_length": len(turns[index][1]), "user_response_length": len(turns[index + 1][1]),
                }  # fmt: skip
                file.write(json.dumps(interaction, ensure_ascii=False) + "\n")
                written += 1
    return written


def prep_job(source: Path, folder: Path) -> int:
    """Run the job and return the number of interactions it wrote."""
    from jobs.prep_wildchat import JOB
    from sdpo.runtime.launch import main

    off = ["--max-conversations", "0", "--max-interactions", "0", "--min-conversations", "0"]
    if main(JOB, ["--source", str(source), "--out-dir", str(folder), *off]):
        raise SystemExit("the job failed")
    return json.loads((folder / "report.json").read_text())["counts"]["interactions"]["kept"]


def measure(variant: str, source: Path) -> dict[str, float]:
    """Return the time and memory of one variant, its imports included, and the number of rows it wrote."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        started = time.perf_counter()
        written = {"job": prep_job, "loop": loop}[variant](source, Path(folder))
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "cpu": time.process_time(), "peak_mb": peak / 1000, "written": written}


def _run(variant: str, source: Path, conversations: int) -> dict[str, float] | None:
    """Run one variant in a new process and return what it prints; None for `write`.

    A child's peak memory starts at its parent's, so this process must stay small.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    command = [
        sys.executable,
        __file__,
        "--variant",
        variant,
        "--source",
        str(source),
        "--conversations",
        str(conversations),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure both variants at each size and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, nargs="+", default=[50_000, 100_000, 200_000, 400_000])
    parser.add_argument("--folder", type=Path, help="folder for the files; default: the system's temporary folder")
    parser.add_argument("--variant", choices=["write", "loop", "job"], help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant == "write":
        print(json.dumps(write_source(arguments.source, arguments.conversations[0])))
        return
    if arguments.variant:
        print(json.dumps(measure(arguments.variant, arguments.source)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for count in arguments.conversations:
            results = {}
            for variant in ("write", "loop", "job"):
                results[variant] = _run(variant, Path(folder) / "train.parquet", count)
                if variant == "write":
                    continue
                speed = count / results[variant]["seconds"]
                print(
                    f"{count:7,} {variant:6} {speed:8,.0f} rows/s  {results[variant]['cpu']:6.1f} s of CPU  "
                    f"{results[variant]['peak_mb']:5.0f} MB peak",
                    flush=True,
                )
            if results["loop"]["written"] != results["job"]["written"]:
                raise SystemExit(f"the two variants wrote different numbers of interactions: {results}")


if __name__ == "__main__":
    main()
