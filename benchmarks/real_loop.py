"""The loop with a real model: rule users talk to the gateway, a night of learning, a verdict.

    python -m benchmarks.real_loop MODEL [--conversations 128] [--style brief] [--out FOLDER]

`transformers serve` has the model, a folder, and `make gateway` is in front of it. Users whose wish a rule reads ask
prompts of `make prep-english`, and complain or thank. Then `make learn` goes from the gateway's store to a decision.
Printed: adherence of what was answered, what each stage of the night came to, and what is live at the end.
"""

import argparse
import shlex
import tempfile
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx

from sdpo import progress
from sdpo.english.checkers import checker_of
from sdpo.english.prompts import prompts
from sdpo.english.users import StyleUser
from sdpo.gateway.store import Store
from sdpo.learn.around import Loop, learn, running
from sdpo.registry.live import read_live

ANSWER_TOKENS = 64
say = partial(print, flush=True)
SETTINGS = {
    "audit": "RECIPE=recommended AUDIT_N=64",
    "train": f"RECIPE=recommended LR=2e-4 BS=8 EPOCHS=1 EVAL_N=16 SAVE_LIMIT=2 MAX_COMPLETION_TOKENS={ANSWER_TOKENS}",
    "eval": f"EVAL_N=32 MAX_COMPLETION_TOKENS={ANSWER_TOKENS}",
}


def talk(loop: Loop, style: str, count: int) -> list[bool]:
    """Let `count` users ask a prompt and say what they think of its answer; return whether each answer fits."""
    asked = Random(1).sample(prompts("train"), count)
    checker, fits = checker_of(style), []
    with httpx.Client(timeout=600, trust_env=False) as client:
        for number, prompt in progress.each(enumerate(asked), "conversations", "conversations", count):
            messages = [{"role": "user", "content": prompt.prompt}]
            answer = _ask(client, loop, f"user-{number % 32}", messages, ANSWER_TOKENS)
            follow_up = StyleUser(style, seed=number).react([prompt.prompt], [answer])[0]
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": follow_up.text}]
            _ask(client, loop, f"user-{number % 32}", messages, 2)
            fits.append(checker.fits(answer, prompt.prompt))
    return fits


def _ask(client: httpx.Client, loop: Loop, user: str, messages: list[dict[str, str]], tokens: int) -> str:
    body: dict[str, Any] = {"model": "sdpo", "messages": messages, "max_tokens": tokens, "temperature": 1}
    response = client.post(f"{loop.url}/chat/completions", json=body, headers={"x-user-id": user})
    response.raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"] or "")


def main() -> None:
    """Go through the loop and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--conversations", type=int, default=128)
    parser.add_argument("--style", default="brief")
    parser.add_argument("--out", type=Path, help="the folder for store, registry and runs; if not set, a temporary one")
    given = parser.parse_args()
    folder, started = given.out or Path(tempfile.mkdtemp(prefix="real-loop-")), time.monotonic()
    with running(folder, model=given.model.resolve()) as loop:
        fits = talk(loop, given.style, given.conversations)
        stored = len(list(Store(loop.store_url, create=False).conversations()))
        say(f"{stored} of {len(fits)} conversations are in the store; {given.style}: {sum(fits) / len(fits):.3f}")
        flags = [f"--{stage}-settings={values}" for stage, values in SETTINGS.items()]
        summary = learn(loop, [*flags, "--style", given.style, "--judge-model", "rule"], say)
        say(f"{summary['outcome']}: {summary['sentence']}")
        say(f"live: {read_live(loop.registry).version or 'the base model'}; ", end="")
        say(f"{(time.monotonic() - started) / 60:.0f} minutes; {shlex.quote(str(folder))}")


if __name__ == "__main__":
    main()
