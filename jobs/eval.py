"""Selects the evaluation for a run: eval-tldr for a run on TL;DR, eval-helpsteer for all others."""

from dataclasses import replace

from jobs import eval_helpsteer, eval_tldr
from sdpo.evaluate.run_folders import named_runs, newest_run
from sdpo.evaluate.trained_run import read_run
from sdpo.runtime.launch import Job, main
from sdpo.settings import EvalSettings


def evaluation_of_run(settings: EvalSettings, job: Job) -> Job:
    """Return the evaluation job for the (last) run in RUN_DIR, or for the newest run; `job` if there is no run."""
    named = named_runs(settings)
    path = named[-1] if named else newest_run(settings.scratch)
    if path is None:
        return job
    return eval_tldr.JOB if read_run(path).job.endswith("tldr") else eval_helpsteer.JOB


# Without a run, this is the evaluation on general prompts.
JOB = replace(
    eval_helpsteer.JOB,
    name="eval",
    summary="eval-tldr or eval-helpsteer, depending on the run",
    become="jobs.eval:evaluation_of_run",
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
