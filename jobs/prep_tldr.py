"""Prepares the prompts of the TL;DR dataset: Reddit posts to summarize."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import SourcePrepSettings
from sdpo.tiny import WORLD_DIR

JOB = Job(
    name="prep-tldr",
    summary="write the prompts of openai/summarize_from_feedback",
    settings=SourcePrepSettings,
    run="sdpo.data.prepare:prompts",
    check="sdpo.data.prepare:check",
    defaults={"out_dir": "data/tldr_prompts_unique"},
    tiny={"source": WORLD_DIR / "data" / "tldr", "out_dir": "data/tiny/tldr_prompts_unique"},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
