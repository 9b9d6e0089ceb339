"""Uploads prepared data to the hub: private unless said otherwise, and nothing that was not redacted by accident."""

import glob
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo.data.prepare import CARD, LOGS, REPORT
from sdpo.data.sources import SOURCES
from sdpo.errors import RecordError, SettingError
from sdpo.runtime.commands import command, given_to_repeat
from sdpo.runtime.hub import check_upload, upload
from sdpo.settings import as_words

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import PushDataSettings

NOT_REDACTED = "nothing (REDACT=0)"  # as the redactor reports it


def check(settings: "PushDataSettings", job: "Job") -> None:
    """Check the data and the access to the hub, and print what would be uploaded. Raises SdpoError for a fault."""
    folder, repository = _given(settings)
    rows = count_rows(folder)
    if (private := unredacted(folder)) and not settings.allow_unredacted:
        raise RecordError(
            f"DATA={folder} holds conversations {private}. Redact them (make prep-logs), or give ALLOW_UNREDACTED=1 if "
            "everything in them may be read by others."
        )
    if (others := not_written(folder)) and not settings.allow_unredacted:
        raise RecordError(
            f"DATA={folder} also holds {', '.join(others[:4])} with answers that the job of {REPORT} did not write. "
            "Move what is not to be uploaded, or give ALLOW_UNREDACTED=1 if everything in it may be read by others."
        )
    later = f"Nothing was uploaded. Try again later with the same command: {_again(settings, job)}"
    counted = ", ".join(f"{count:,} of {name}" for name, count in rows.items())
    kind = "public" if settings.public else "private"
    print(f"{sum(rows.values()):,} rows ({counted}) to {repository}, {kind} if it is new", flush=True)
    check_upload("REPO", repository, settings.hf_token, settings.dry_run, otherwise=later)


def run(settings: "PushDataSettings", job: "Job") -> None:
    """Upload the folder's data, its card and the report about it."""
    folder, repository = _given(settings)
    address = upload(
        folder,
        repository,
        settings.hf_token,
        public=settings.public,
        message=f"{sum(count_rows(folder).values())} rows",
        files=[*map(glob.escape, count_rows(folder)), CARD],
        kind="dataset",
        again=_again(settings, job),
    )
    print(f"uploaded to {address}", flush=True)


def _again(settings: "PushDataSettings", job: "Job") -> str:
    return command(job.name, *as_words(given_to_repeat(settings)))


def count_rows(folder: Path) -> dict[str, int]:
    """Return the number of rows of each data file by name. Raises RecordError if there is none."""
    counts: dict[str, int] = {}
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            counts[path.name] = sum(1 for line in file if line.strip())
    if not any(counts.values()):
        raise RecordError(f"DATA={folder} has no rows in a JSONL file. Give the folder that a prep- job has written.")
    return counts


def unredacted(folder: Path) -> str | None:
    """Return why a folder's conversations may hold what is private, None if they are redacted or from a public source.

    Prompts without answers are nobody's conversations.
    """
    if not any(_has_answers(path) for path in folder.glob("*.jsonl")):
        return None
    try:
        report: Any = json.loads((folder / REPORT).read_text("utf-8"))
    except (OSError, ValueError):
        return f"and no {REPORT}, which would say whether they are redacted"
    if not isinstance(report, dict) or report.get("job") not in _PUBLIC | {"prep-logs"}:
        return f"of which {REPORT} does not say whether they are redacted"
    return "that are not redacted (REDACT=0)" if report.get("redacted") == NOT_REDACTED else None


def not_written(folder: Path) -> list[str]:
    """Return the data files with answers that are not from the job whose report is in the folder."""
    try:
        report: Any = json.loads((folder / REPORT).read_text("utf-8"))
    except (OSError, ValueError):
        report = None
    report = report if isinstance(report, dict) else {}
    names, job = report.get("written"), report.get("job")
    if not isinstance(names, list):  # an earlier version's report
        names = SOURCES[job].outputs if job in SOURCES else [LOGS]
    return sorted(path.name for path in folder.glob("*.jsonl") if path.name not in names and _has_answers(path))


_PUBLIC = {"prep-wildfeedback", "prep-wildchat"}  # published already


def _has_answers(path: Path) -> bool:
    """Return whether any row of the file may be more than a prompt."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line) if line.strip() else {}
            except ValueError:
                return True
            if not isinstance(row, dict) or row.keys() - {"id", "prompt"}:
                return True
    return False


def _given(settings: "PushDataSettings") -> tuple[Path, str]:
    if settings.data is None or settings.repo is None:
        name = "DATA" if settings.data is None else "REPO"
        raise SettingError(f"{name} is not set. Give DATA=folder and REPO=owner/name.")
    if not settings.data.is_dir():
        raise SettingError(f"DATA={settings.data} is not a folder. Give the folder that a prep- job has written.")
    return settings.data, settings.repo
