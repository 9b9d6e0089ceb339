"""The job of `make demo-loop`: the whole loop with the tiny model, in minutes on a CPU. Importing this is cheap."""

import time
from typing import TYPE_CHECKING

from sdpo.errors import RunError, SettingError, command
from sdpo.gateway import service

if TYPE_CHECKING:
    from sdpo.learn.around import Loop, Result
    from sdpo.runtime.launch import Job
    from sdpo.settings import DemoLoopSettings

FRESH = 64  # conversations that are measured afterwards
PORT = 8787  # the gateway's own, where make chat looks for it; another one if it is taken
# A night that is short: a part of the interactions, and an evaluation by the oracle alone.
_SHORT = (
    "--audit-settings", "AUDIT_N=96",
    "--train-settings", "LR=3e-3 EPOCHS=2 EVAL_N=0 HOLDOUT=0 SAVE_STEPS=4 SAVE_LIMIT=2",
    "--eval-settings", "JUDGE_TRUTH=0 CONDITION=0 EVAL_N=2000",
)  # fmt: skip


def check(settings: "DemoLoopSettings", job: "Job") -> None:
    """Raise SettingError if a package is missing, RunError if the folder has a demo already."""
    service.check_packages(job)
    if (settings.run_directory_path / "store.sqlite").exists():
        raise RunError(f"{settings.run_directory_path} has a demo already. Choose another RUN_ID, or leave it out.")
    if settings.demo_conversations < 4 * settings.demo_users:
        raise SettingError("DEMO_CONVERSATIONS has to be at least 4 times DEMO_USERS: some users are held out.")
    if settings.dry_run:
        ports = f"{PORT} for the gateway, a free one for the model" if settings.demo_stay else "free ones"
        print(
            f"note: a server of the tiny model and a gateway would start on loopback (ports: {ports}). "
            f"{settings.demo_users} users, played by rules, have {settings.demo_conversations} conversations; a night "
            "of learning trains on them and evaluates, and what is better goes live: some minutes on two cores. "
            f"Everything is written to {settings.run_directory_path}. Both servers "
            + ("stay until Ctrl-C." if settings.demo_stay else "end with the demo; DEMO_STAY=1 leaves them running."),
            flush=True,
        )


def run(settings: "DemoLoopSettings", job: "Job") -> None:
    """Go once around, print before and after, and with DEMO_STAY=1 serve on until Ctrl-C.

    Raises RunError if a job failed, ServerError if a server does not start.
    """
    from sdpo.learn.around import once_around, running, table

    print("starting the tiny model's server and the gateway", flush=True)
    with running(settings.run_directory_path, PORT if settings.demo_stay else 0) as loop:
        result = once_around(
            loop, settings.demo_conversations, settings.demo_users, FRESH, *_SHORT, roll_back=False, say=_say
        )
        print(f"\n{table(result)}\n\n{_samples(result)}\n", flush=True)
        print(next_steps(loop, result, settings.demo_stay), flush=True)
        while settings.demo_stay:
            time.sleep(1)


def _say(text: str) -> None:
    print(text, flush=True)


def _samples(result: "Result") -> str:
    """Return an answer before and after to the first post that is answered otherwise."""
    before, after = next((pair for pair in zip(*result.greedy[:2], strict=True) if pair[0] != pair[1]), ("", ""))
    return f"before: {before}\nafter:  {after}" if before else "the answers are as before"


def next_steps(loop: "Loop", result: "Result", serving: bool) -> str:
    """Return what can be done with what the demo left."""
    registry = f"REGISTRY={loop.registry}"
    night = max((loop.folder / "learn").iterdir(), key=lambda path: path.stat().st_mtime)
    lines = [f"the night's page:  {night / 'report.html'}", f"the versions:      make versions {registry}"]
    if serving:
        lines += [
            f"talk to it:        make chat TINY=1 GATEWAY_URL={loop.url}  (then /compare, /signal)",
            f"go back:           make rollback {registry} UPSTREAM={loop.upstream}",
            "Ctrl-C ends server and gateway.",
        ]
    else:
        lines.append(f"{command('demo-loop')} DEMO_STAY=1 leaves server and gateway running, for {command('chat')}.")
    return "\n".join(lines)
