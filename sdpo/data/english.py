"""Prepares this project's own English prompts: how-to, explain, write, compare, opinion, code, summarize.

They need no hub, and with a style that a rule can check neither a user's nor a judge's model: see `sdpo.english`.
"""

import hashlib
from typing import TYPE_CHECKING

from sdpo.data.output import Outputs
from sdpo.data.prepare import BESIDE, check_output_folder, finish, report_on
from sdpo.data.report import Lengths, Tally, measure_of
from sdpo.data.sources import Origin
from sdpo.english import PROMPTS_FILE
from sdpo.english.prompts import SPLITS, prompts
from sdpo.text.records import Prompt, prompt_lines

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import PrepSettings


def check(settings: "PrepSettings", job: "Job") -> None:
    """Raise SdpoError if OUT_DIR cannot be used."""
    check_output_folder(settings, _names())


def run(settings: "PrepSettings", job: "Job") -> None:
    """Write both splits, each in an order by hash, so that its first rows are of all kinds."""
    lengths, tallies = Lengths(["prompt"], measure_of(settings.model)), dict[str, Tally]()
    with Outputs([settings.out_dir / name for name in _names()], settings.force) as outputs:
        for split in SPLITS:
            tally = tallies[split] = Tally()
            for row in sorted(prompts(split), key=lambda row: hashlib.sha256(row.id.encode()).digest()):
                tally.kept += 1
                lengths.add("prompt", [row.prompt])
                for line in prompt_lines([Prompt(row.id, row.prompt)]):
                    outputs[settings.out_dir / f"{split}.jsonl"].write(line.encode())
        origin = Origin({split: [PROMPTS_FILE] for split in SPLITS}, "this project's own prompts")
        finish(settings, outputs, report_on(settings, job, origin, tallies, lengths), lengths)


def _names() -> list[str]:
    return [*(f"{split}.jsonl" for split in SPLITS), *BESIDE]
