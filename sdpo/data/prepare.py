"""The jobs that prepare public data sets: checks before the start, and writing records and a report.

Importing this module is cheap: the libraries for reading and drawing are imported when the job runs.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sdpo import progress
from sdpo.data import rows as rows_module
from sdpo.data.card import dataset_card
from sdpo.data.conversation import Conversation, Dropped, interactions
from sdpo.data.files import batches, count_rows, find, rows
from sdpo.data.messages import nonempty_text
from sdpo.data.output import Outputs, refuse_existing
from sdpo.data.report import Lengths, Tally, draw, measure_of, table
from sdpo.data.seen_hashes import SeenHashes
from sdpo.data.sources import CONVERSATION_SOURCES, PROMPT_SOURCES, SOURCES, ConversationSource, Origin, locate
from sdpo.errors import RecordError, RunError
from sdpo.runtime.commands import command
from sdpo.runtime.ending import say
from sdpo.text.records import Interaction, Prompt, interaction_lines, prompt_lines

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import ConversationPrepSettings, PrepSettings, SourcePrepSettings

REPORT, PICTURE, CARD = "report.json", "lengths.png", "README.md"
LOGS = "logs_interactions.jsonl"  # what prep-logs writes
BESIDE = (REPORT, PICTURE, CARD)  # what each job writes beside its data
KINDS = ("prompt", "completion", "user_response")


def check(settings: "SourcePrepSettings", job: "Job") -> None:
    """Check all that can be checked without the hub. Raises SdpoError for the first problem."""
    source = SOURCES[job.name]
    check_output_folder(settings, [*source.outputs, *BESIDE])
    if settings.source is not None:
        find(settings.source, source.splits)


def check_output_folder(settings: "PrepSettings", names: Iterable[str]) -> None:
    """Raise RunError if OUT_DIR is not writable, or has one of the files and FORCE is not set."""
    from sdpo.runtime.launch import check_writable

    check_writable(settings.out_dir, "OUT_DIR")
    refuse_existing([settings.out_dir / name for name in names], settings.force)


# Prompts


def prompts(settings: "SourcePrepSettings", job: "Job") -> None:
    """Write the prompts of a source without duplicates, and without prompts of train in validation."""
    source = PROMPT_SOURCES[job.name]
    lengths = Lengths(["prompt"], measure_of(settings.model))
    origin = locate(source, settings.source, settings.revision)
    names = [f"{split}.jsonl" for split in origin.files]
    for split in source.splits:
        if split not in origin.files and (settings.out_dir / f"{split}.jsonl").exists():
            raise RunError(
                f"{settings.out_dir} already has {split}.jsonl, but SOURCE has no rows for it. Choose another OUT_DIR."
            )
    tallies: dict[str, Tally] = {}
    train_hashes: SeenHashes | None = None
    with Outputs([settings.out_dir / name for name in (*names, *BESIDE)], settings.force) as outputs:
        for split, files in origin.files.items():
            tally = tallies[split] = Tally()
            with progress.task(f"{job.name} {split}", count_rows(files), "rows") as under:
                results = (source.prompt_of(row) if isinstance(row, dict) else row
                           for row in rows(files, source.columns, under.advance))  # fmt: skip
                seen = write_prompts(
                    results, split, train_hashes, tally, lengths, outputs[settings.out_dir / f"{split}.jsonl"]
                )
            check_not_empty(tally, f"the split {split} of {origin.source}")
            train_hashes = train_hashes or seen
        report = report_on(settings, job, origin, tallies, lengths)
        finish(settings, outputs, report, lengths)


def write_prompts(
    prompts: Iterable[str | Dropped],
    split: str,
    train_hashes: SeenHashes | None,
    tally: Tally,
    lengths: Lengths,
    file: IO[bytes],
) -> SeenHashes:
    """Write the prompts that are new, count all of them, and return the hashes of those seen in this split."""
    seen = SeenHashes()
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, Dropped):
            tally.drop(prompt.reason)
            continue
        prompt_hash = hash(rows_module.normalized(prompt))
        if train_hashes is not None and prompt_hash in train_hashes:
            tally.drop("also in train")
        elif not seen.add(prompt_hash):
            tally.drop("duplicate")
        else:
            tally.kept += 1
            lengths.add("prompt", [prompt])
            for line in prompt_lines([Prompt(f"{split}-{number}", prompt)]):
                file.write(line.encode())
    return seen


# Interactions


def conversations(settings: "ConversationPrepSettings", job: "Job") -> None:
    """Write the interactions of a source's conversations."""
    source = CONVERSATION_SOURCES[job.name]
    lengths = Lengths(KINDS, measure_of(settings.model))
    origin = locate(source, settings.source, settings.revision)
    files = origin.files[source.splits[0]]
    names = [source.output, *BESIDE]
    writer, languages = InteractionWriter(lengths), Counter[str]()
    with Outputs([settings.out_dir / name for name in names], settings.force) as outputs:
        file = outputs[settings.out_dir / source.output]
        with numbered_rows(source, settings, files) as (total, numbered):
            for number, row in progress.each(numbered, job.name, "rows", total):
                if isinstance(row, dict) and (language := nonempty_text(row.get("language"))):
                    languages[language] += 1
                writer.add(_conversation(source, settings, row, number), file)
                if limit_reached(settings, writer.rows.kept, writer.interactions.kept):
                    break
        check_not_empty(writer.rows, origin.source)
        counts = {"conversations": writer.rows, "interactions": writer.interactions}
        report = report_on(settings, job, origin, counts, lengths) | {
            "not_read": total - writer.rows.seen if total is not None else None,
            "duplicates": writer.duplicates,
            "languages": dict(sorted(languages.items(), key=lambda item: (-item[1], item[0]))),
        }
        finish(settings, outputs, report, lengths)


@contextmanager
def numbered_rows(
    source: ConversationSource, settings: "ConversationPrepSettings", files: list[Path]
) -> Iterator[tuple[int | None, Iterable[tuple[int, dict | Dropped]]]]:
    """Yield the number of rows, if known, and an iterable of (number, row), shuffled if the source is."""
    total = count_rows(files)
    if not source.shuffled:
        yield total, enumerate(rows(files, source.columns, lambda count: None))
        return
    from sdpo.data.table import Table

    with progress.task("reading", total, "rows") as under:
        table = Table(_counted(batches(files, source.columns), under.advance), settings.out_dir)
    with table:
        yield len(table), table.shuffled(settings.seed)


def _conversation(
    source: ConversationSource, settings: "ConversationPrepSettings", row: dict | Dropped, number: int
) -> Conversation | Dropped:
    if isinstance(row, Dropped):
        return row
    dropped = rows_module.flagged(row, settings.drop_toxic, settings.drop_redacted)
    return dropped or source.conversation_of(row, number)


def limit_reached(settings: "ConversationPrepSettings", conversations: int, interactions: int) -> bool:
    """Return whether the numbers of kept conversations and interactions reach the limits of the settings."""
    if settings.max_conversations and conversations >= settings.max_conversations:
        return True
    return bool(
        settings.max_interactions
        and interactions >= settings.max_interactions
        and conversations >= settings.min_conversations
    )


class InteractionWriter:
    """Writes the interactions of conversations, and counts kept and dropped rows and interactions."""

    def __init__(self, lengths: Lengths) -> None:
        self.rows, self.interactions = Tally(), Tally()
        self._lengths = lengths
        self.duplicates = 0  # kept conversations whose messages equal an earlier one's
        self._ids, self._contents = SeenHashes(), SeenHashes()

    def add(self, conversation: Conversation | Dropped, file: IO[bytes]) -> list[Interaction]:
        """Write the interactions of a conversation, if it has any, and return them."""
        if isinstance(conversation, Dropped):
            self.rows.drop(conversation.reason, where=conversation.where)
            return []
        if hash(conversation.id) in self._ids:
            self.rows.drop("an id that an earlier conversation has", conversation.rows)
            return []
        return self.write(conversation, interactions(conversation), file)

    def write(
        self, conversation: Conversation, results: Sequence[Interaction | Dropped], file: IO[bytes]
    ) -> list[Interaction]:
        """Write those of a conversation's interactions that are not dropped, and return them."""
        kept = [result for result in results if isinstance(result, Interaction)]
        reasons = [result.reason for result in results if isinstance(result, Dropped)]
        if not kept:
            self.rows.drop(reasons[0] if reasons else "no answer that the user replied to", conversation.rows)
            return []
        self._ids.add(hash(conversation.id))
        self.duplicates += not self._contents.add(hash(tuple(conversation.messages)))
        self.rows.kept += conversation.rows
        self.interactions.kept += len(kept)
        self.interactions.dropped.update(reasons)
        file.write("".join(interaction_lines(kept)).encode())
        for interaction in kept:
            self._lengths.add("prompt", [message["content"] for message in interaction.prompt])
            self._lengths.add("completion", [interaction.completion])
            self._lengths.add("user_response", [interaction.user_response])
        return kept


# Shared by all preparation jobs


def check_not_empty(tally: Tally, source: str, advice: str = "") -> None:
    """Raise RecordError, with the advice, if nothing was kept: a job that reads an empty file would only fail later."""
    if not tally.kept:
        where = {reason: f", first in {row}" for reason, row in tally.first.items()}
        dropped = tally.as_dict()["dropped"].items()
        reasons = "; ".join(f"{reason}: {count}{where.get(reason, '')}" for reason, count in dropped)
        seen = f"{tally.seen} row{'s' if tally.seen != 1 else ''} seen; {reasons or 'it is empty'}"
        raise RecordError(f"nothing in {source} can be used ({seen}). {advice}".rstrip())


def report_on(
    settings: "PrepSettings", job: "Job", origin: Origin, tallies: dict[str, Tally], lengths: Lengths
) -> dict[str, Any]:
    """Return what report.json holds: where the rows came from, how many were kept and dropped, and their lengths."""
    return {
        "job": job.name,
        "source": origin.source,
        "revision": origin.revision,
        "commit": origin.commit,
        "files": {split: [path.name for path in files] for split, files in origin.files.items()},
        "seed": settings.seed,
        "counts": {name: tally.as_dict() for name, tally in tallies.items()},
        "lengths": lengths.as_dict(),
    }


def finish(settings: "PrepSettings", outputs: Outputs, report: dict[str, Any], lengths: Lengths) -> None:
    """Write the report and the figure, publish all files, and print the report."""
    report = report | {"written": [name for name in outputs.names if name not in BESIDE]}
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    outputs[settings.out_dir / REPORT].write(text.encode(errors="backslashreplace"))
    draw(lengths, f"{report['job']}: {report['source']}".replace("$", r"\$"), outputs[settings.out_dir / PICTURE])
    outputs[settings.out_dir / CARD].write(dataset_card(report, outputs.names).encode())
    outputs.publish()
    print(f"\n{table(report)}\n\nwritten to {settings.out_dir}", flush=True)
    kept = ", ".join(f"{count['kept']:,} of {count['seen']:,} {name}" for name, count in report["counts"].items())
    say(
        f"Kept {kept}.",
        {"picture": settings.out_dir / PICTURE},
        *next_command(report["job"], settings.out_dir, settings.tiny),
    )


def next_command(job: str, out_dir: Path, tiny: bool = False) -> tuple[str, str]:
    """Return the command that uses what a preparation job has written, and what it is for."""
    if job in CONVERSATION_SOURCES or job == "prep-logs":
        file = CONVERSATION_SOURCES[job].output if job in CONVERSATION_SOURCES else LOGS
        return command("audit", data=out_dir / file, tiny=tiny), "checks whether training on it can work (MODEL=...)"
    if job == "prep-english":
        return command("demo-real", data_path=out_dir), "trains a small model on it"
    return command(job.replace("prep-", "train-online-"), data_path=out_dir, tiny=tiny), "trains on it"


def _counted(row_batches: Iterable[Any], advance: Callable[[int], Any]) -> Iterator[Any]:
    for batch in row_batches:
        yield batch
        advance(len(batch) if isinstance(batch, list) else batch.num_rows)
