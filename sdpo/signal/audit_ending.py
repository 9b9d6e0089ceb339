"""What an audit ends with: answers with and without hindsight, its verdict in a sentence, and the next command."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdpo import settings as settings_module
from sdpo.runtime.columns import cut, side_by_side
from sdpo.runtime.commands import command
from sdpo.settings.contrast import OF_NULL_CONTRAST
from sdpo.signal.verdict import CHANGES, GO, STOP
from sdpo.text.prompts import HINDSIGHT_TEMPLATES

if TYPE_CHECKING:
    from sdpo.settings import AuditSettings

Row = dict[str, Any]
_PROMPT = 40  # characters of a prompt before its follow-up
# What an audit and the training after it have in common.
_TARGET = ("recipe", "hindsight_template", "hindsight_file", "null_contrast", *OF_NULL_CONTRAST)
_SETTING = re.compile(r"([A-Z_]+)=(\S+)")


def best_candidate(candidates: Sequence[Row]) -> Row:
    """Return the candidate with the best verdict; among several the one whose answers are preferred most often."""
    ranks = {GO: 2, CHANGES: 1, STOP: 0}
    return max(candidates, key=lambda row: (ranks[row["verdict"]], row["figures"]["preference"]["share"] or 0.0))


def example_answers(candidates: Sequence[Row]) -> str:
    """Return two answers of the best candidate side by side: without the follow-up, and with it in hindsight."""
    examples = best_candidate(candidates)["figures"]["preference"]["examples"][:2]
    # The follow-up whole, which is what the answers differ by.
    asked = [cut(" ".join(row["prompt"].split()), _PROMPT) for row in examples]
    rows = [
        (f"{prompt}  […]  {row['follow_up']}", row["without"], row["with"])
        for prompt, row in zip(asked, examples, strict=True)
    ]
    return side_by_side(rows, ("without hindsight", "with hindsight"))


def sentence(row: Row) -> str:
    """Return the verdict on a candidate in one sentence."""
    figures = row["figures"]["preference"]
    share = "none are decided" if figures["share"] is None else f"{figures['share']:.2f} of these answers are preferred"
    cause = f" (cause: the {row['cause']})" if row["cause"] else ""
    return f"{row['verdict']}{cause}: {row['model']} with the template {row['template']}; {share}."


def next_command(row: Row, settings: "AuditSettings") -> tuple[str, str]:
    """Return the command to run after this verdict, and what it is for."""
    tiny = settings.tiny
    given = settings_module.given(settings)
    target = {name: given[name] for name in _TARGET if name in given}
    judging = {name: given[name] for name in ("judge_model", "judge_url", "style", "style_file") if name in given}
    kept = target | judging
    if row["verdict"] != STOP:
        found = (_SETTING.fullmatch(change["setting"]) for change in row["changes"])
        values = {match[1].lower(): match[2] for match in found if match}
        model = None if tiny else row["model"]
        train = {"model": model, "train_jsonl": None if tiny else settings.data}
        return command("train-offline", **train, **(target | values), tiny=tiny), "trains on this data"
    if row["cause"] == "template":
        others = " ".join(name for name in HINDSIGHT_TEMPLATES if name != settings.hindsight_template)
        again = command("audit", model=row["model"], data=settings.data, templates=others, **kept, tiny=tiny)
        return again, "compares other templates"
    if row["cause"] == "data":
        return command("prep-logs", "INPUT=..."), "prepares other conversations"
    return command("audit", model="...", data=settings.data, **kept, tiny=tiny), "another model on the same data"
