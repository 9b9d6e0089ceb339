"""Prepares the prompts of HelpSteer2: general requests."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import SourcePrepSettings
from sdpo.tiny import WORLD_DIR

JOB = Job(
    name="prep-helpsteer",
    summary="write the prompts of nvidia/HelpSteer2",
    settings=SourcePrepSettings,
    run="sdpo.data.prepare:prompts",
    check="sdpo.data.prepare:check",
    defaults={"out_dir": "data/helpsteer2_prompts"},
    tiny={"source": WORLD_DIR / "data" / "helpsteer", "out_dir": "data/tiny/helpsteer2_prompts"},
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
