"""The WildChat preparation against a plain loop over the same rows, in one run: rows per second and peak memory.

    python benchmarks/wildchat.py [--conversations 50000 100000 200000 400000] [--folder DIR]

Plain is what a straightforward script does: load the file with `datasets`, shuffle its index, go through the rows one
by one, filter, write a line for each interaction. Ours is the job itself, its report and picture included, with the
early stop off. Both start from the same parquet file with every column of the source, and each has a process of its
own, so that its peak memory is its own. Needs about 3 KB of disk for each conversation three times over.
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

_BLOCK = 10_000  # conversations that are made; more are the same ones under other ids


def write_source(path: Path, conversations: int) -> None:
    """Write a parquet file like the source's: its columns, its shares of languages and turns, its lengths."""
    import pyarrow
    import pyarrow.parquet

    rng = Random(0)
    words = " ".join("".join(rng.choices("etaoinshrdlucmfw", k=rng.randrange(2, 10))) for _ in range(200_000))
    block = pyarrow.Table.from_pylist([_row(rng, words) for _ in range(_BLOCK)])
    place = block.schema.get_field_index("conversation_id")
    with pyarrow.parquet.ParquetWriter(path, block.schema) as writer:
        for start in range(0, conversations, _BLOCK):
            names = pyarrow.array([f"{number:032x}" for number in range(start, start + _BLOCK)])
            writer.write_table(block.set_column(place, "conversation_id", names).slice(0, conversations - start))


def _row(rng: Random, words: str) -> dict:
    def text(typical: float) -> str:
        start = rng.randrange(len(words) - 20_000)
        return words[start : start + min(20_000, int(typical * rng.lognormvariate(0, 1)))] or "x"

    english, turns = rng.random() < 0.55, 1 + int(rng.expovariate(1 / 1.5))
    flags = {"language": "English" if english else "Chinese", "redacted": False, "toxic": rng.random() < 0.1}
    said = [(role, text(typical)) for _ in range(turns) for role, typical in (("user", 150), ("assistant", 900))]
    scores = {name: rng.random() for name in ("harassment", "hate", "self-harm", "sexual", "violence")}
    return {
        "conversation_id": "", "model": "gpt-3.5-turbo-0301", "timestamp": datetime.fromtimestamp(1.68e9, UTC),
        "conversation": [{"content": text, "role": role, **flags} for role, text in said], "turn": turns,
        "language": flags["language"],
        "openai_moderation": [
            {"categories": dict.fromkeys(scores, False), "category_scores": scores, "flagged": False} for _ in said
        ],
        "detoxify_moderation": [scores for _ in said], "toxic": flags["toxic"], "redacted": False,
    }  # fmt: skip


def plain(source: Path, folder: Path) -> int:
    """Return how many rows a plain loop wrote."""
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(source), split="train", cache_dir=str(folder / "cache"))
    rows = rows.select_columns(["conversation_id", "model", "timestamp", "conversation", "language"])
    written = 0
    with (folder / "plain.jsonl").open("w", encoding="utf-8") as file:
        for row in rows.shuffle(seed=42):
            said = [(message["role"], (message["content"] or "").strip()) for message in row["conversation"]]
            said = [(role, text) for role, text in said if text]
            if row["language"] != "English" or len(said) < 3 or sum(len(text) for _, text in said) > 100_000:
                continue
            if any(len(text) > 4096 for _, text in said):
                continue
            for place in range(1, len(said) - 1):
                if said[place][0] != "assistant" or said[place + 1][0] != "user":
                    continue
                history = said[max(0, place - 5) : place]
                history = history[1:] if history[0][0] == "assistant" else history
                interaction = {
                    "id": f"{row['conversation_id']}_{place}", "conversation_id": row["conversation_id"],
                    "turn_id": place, "model": row["model"], "timestamp": row["timestamp"].isoformat(),
                    "prompt": [{"role": role, "content": text} for role, text in history],
                    "completion": said[place][1], "user_response": said[place + 1][1],
                    "prompt_length": sum(len(text) for _, text in history),
                    "completion_length": len(said[place][1]), "user_response_length": len(said[place + 1][1]),
                }  # fmt: skip
                file.write(json.dumps(interaction, ensure_ascii=False) + "\n")
                written += 1
    return written


def ours(source: Path, folder: Path) -> int:
    """Return how many rows the job wrote."""
    from jobs.prep_wildchat import JOB
    from sdpo.runtime.launch import main

    off = ["--max-conversations", "0", "--max-interactions", "0", "--min-conversations", "0"]
    if main(JOB, ["--source", str(source), "--out-dir", str(folder), *off]):
        raise SystemExit("the job failed")
    return json.loads((folder / "report.json").read_text())["counts"]["interactions"]["kept"]


def measure(variant: str, source: Path) -> dict[str, float]:
    """Return what one side needed for the whole of its work, from starting Python's imports on."""
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        started = time.perf_counter()
        written = {"ours": ours, "plain": plain}[variant](source, Path(folder))
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "cpu": time.process_time(), "peak_mb": peak / 1000, "written": written}


def _run(variant: str, source: Path, conversations: int) -> dict[str, float] | None:
    """Return what a process of its own says of its side. This one stays small: a child's peak begins with ours."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    command = [
        sys.executable,
        __file__,
        "--side",
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
    """Measure both sides at each size and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, nargs="+", default=[50_000, 100_000, 200_000, 400_000])
    parser.add_argument("--folder", type=Path, help="where the files go; by default the system's temporary folder")
    parser.add_argument("--side", choices=["write", "plain", "ours"], help=argparse.SUPPRESS)
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
            found = {}
            for variant in ("write", "plain", "ours"):
                found[variant] = _run(variant, Path(folder) / "train.parquet", count)
                if variant == "write":
                    continue
                speed = count / found[variant]["seconds"]
                print(
                    f"{count:7,} {variant:6} {speed:8,.0f} rows/s  {found[variant]['cpu']:6.1f} s of CPU  "
                    f"{found[variant]['peak_mb']:5.0f} MB peak",
                    flush=True,
                )
            if found["plain"]["written"] != found["ours"]["written"]:
                raise SystemExit(f"the two sides wrote different numbers of interactions: {found}")


if __name__ == "__main__":
    main()
