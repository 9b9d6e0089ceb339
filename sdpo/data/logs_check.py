"""The check of prep-logs. In a dry run it reads the files and says which form of conversations was recognised."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.data.conversation import Conversation, interactions
from sdpo.data.inputs import Member, Source, paths_of, sources_of
from sdpo.data.logs import NO_CONVERSATIONS, input_of, known_forms, read_conversations, reason_to_skip
from sdpo.data.prepare import BESIDE, LOGS, check_output_folder
from sdpo.data.redact import Redactor, check_names
from sdpo.errors import RecordError, SettingError
from sdpo.settings.inputs import check_model
from sdpo.text.records import Interaction

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import LogsPrepSettings

_MOST_FILES = 8  # that a dry run describes one by one


def check(settings: "LogsPrepSettings", job: "Job") -> list[str]:
    """Check all that can be checked before anything is written. Raises SdpoError for the first problem.

    A dry run reads all files; returns lines on the form of each and on what was found.
    """
    source = input_of(settings)
    check_output_folder(settings, (LOGS, *BESIDE))
    own = [settings.out_dir / name for name in (LOGS, *BESIDE)]
    if not paths_of(source, own):
        raise RecordError(f"INPUT={source} has no files in it. Name the file with your conversations.")
    if settings.redact_names:
        check_names(settings.redact)
    if settings.model is not None and not Path(settings.model).expanduser().exists():
        _check_tokenizer(settings, settings.model)
    return recognised(source, Redactor(settings.redact), own) if settings.dry_run else []


def _check_tokenizer(settings: "LogsPrepSettings", model: str) -> None:
    """Raise SettingError if the hub does not have the model whose tokens are counted; a dry run may only say so."""
    try:
        check_model(settings, "model", model)
    except SettingError as error:
        raise SettingError(f"{error} Its tokens are only counted: unset MODEL to count characters.") from None


def recognised(source: Path, redactor: Redactor, own: Sequence[Path] = ()) -> list[str]:
    """Return lines on the files: the form of each, in how many rows, and how many interactions were found.

    Nothing is written but to a temporary folder. Raises RecordError as the run itself does.
    """
    lines: list[str] = []
    skipped, total, found_in = Counter[str](), 0, 0
    with tempfile.TemporaryDirectory(prefix="sdpo-") as scratch:
        sources = sources_of(source, Path(scratch), own)
        for one in sources:
            reason, line, count = _look_at(one, len(sources) == 1, Path(scratch), redactor)
            if reason is not None:
                skipped[reason] += 1
                continue
            lines.append(line)
            total, found_in = total + count, found_in + bool(count)
    if not total:
        seen = "; ".join(lines) or ", ".join(f"{count} files skipped: {reason}" for reason, count in skipped.items())
        recognised = any("of the form" in line for line in lines)
        advice = "An interaction is an answer that the user replied to." if recognised else known_forms()
        raise RecordError(f"nothing in INPUT={source} can be used: {seen}. {advice}")
    if len(lines) > _MOST_FILES:
        lines = [*lines[:_MOST_FILES], f"and {len(lines) - _MOST_FILES} more files with conversations"]
    lines += [f"skipped: {count} ({reason})" for reason, count in skipped.items()]
    return [*lines, f"in all {total:,} interactions, before repeated ones are left out"]


def _look_at(source: Source, alone: bool, scratch: Path, redactor: Redactor) -> tuple[str | None, str, int]:
    """Return why a file is skipped, or None with a line on its form and the number of its interactions."""
    if (reason := reason_to_skip(source, alone)) is not None:
        return reason, "", 0
    found, dropped = Counter[str](), Counter[str]()
    first: dict[str, str] = {}
    conversations = count = 0
    for result in read_conversations(source, scratch, found):
        if isinstance(result, Conversation):
            conversations += 1
            count += sum(isinstance(one, Interaction) for one in interactions(result))
        else:
            dropped[result.reason] += 1
            first.setdefault(result.reason, redactor.words(result.where))
    if isinstance(source, Member):
        source.close()
    if not conversations and not found and not alone:
        return NO_CONVERSATIONS, "", 0
    parts = [f"{_rows(rows)} of the form {name}" for name, rows in found.items()] or ["no row of a known form"]
    parts += [f"{_rows(rows)} dropped as {reason}, first {first[reason]}" for reason, rows in dropped.items()]
    if found:
        parts[-1] += f": {conversations:,} conversations, {count:,} interactions"
    return None, f"{source}: {', '.join(parts)}", count


def _rows(number: int) -> str:
    return f"{number:,} row" + ("s" if number != 1 else "")
