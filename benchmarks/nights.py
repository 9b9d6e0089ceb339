"""Five nights of learning in the tiny world: what was learned stays, and what users say in bad faith does no harm.

    python -m benchmarks.nights [--each 320] [--out FOLDER]

By day 64 users talk to what is live, half of whom want short answers and half formal ones; what was said is in a store.
By night `make learn` learns from all of it. The days:

    tastes         the two tastes
    unrelated      everybody writes about something else
    poisoned       the two tastes, and of each 20 users one who asks for the opposite of both
    contradicting  half of the users ask for the opposite of what the other half asks for
    tastes         the two tastes again

A line per night: the decision, what is live, and 256 fresh answers of it. At the end everything is rolled back, version
by version, and the answers are those from before, to the token.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from peft import PeftModel
from transformers import AutoModelForCausalLM

from sdpo.gateway.store import Store
from sdpo.learn.rule_users import STYLE, TASTES
from sdpo.models.generate import generate
from sdpo.models.pretrained import load_tokenizer, silence_libraries
from sdpo.registry import versions
from sdpo.registry.live import read_live
from sdpo.registry.moves import rollback
from sdpo.settings import PromoteSettings
from sdpo.text.chat import encode_prompt
from sdpo.tiny import MODEL_DIR, language, oracle
from sdpo.tiny.logged import messages_of
from sdpo.tiny.users import OracleUser, UnrelatedUser

USERS, FRESH = 64, 256
OPPOSITE = {"long": True, "casual": True}


def user_of(day: str, number: int, rng: Random) -> OracleUser | UnrelatedUser:
    """Return how a user reacts on a day."""
    wanted = dict(TASTES[number % 2])
    if day == "unrelated":
        user: OracleUser | UnrelatedUser = UnrelatedUser()
    elif day == "poisoned" and number % 20 == 0:
        user = OracleUser(OPPOSITE)
    elif day == "contradicting" and number % 4 >= 2:
        user = OracleUser({axis: not value for axis, value in wanted.items()})
    else:
        user = OracleUser(wanted)
    user.rng = rng
    return user


class Talk:
    """Answers of what is live, on posts that no training saw."""

    def __init__(self, registry: Path) -> None:
        self.registry = registry
        self.tokenizer = load_tokenizer(str(MODEL_DIR), "MODEL")

    def answers(self, posts: list[language.Post], temperature: float, seed: int) -> list[str]:
        """Return an answer to each post."""
        model = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
        if (live := read_live(self.registry).version) is not None:
            folder = versions.read(self.registry, live).folder(self.registry)
            model = PeftModel.from_pretrained(model, str(folder))
        prompts = [encode_prompt(self.tokenizer, messages_of(post)) for post in posts]
        return [text for text, _ in generate(model, self.tokenizer, prompts, 48, 128, temperature, seed)]

    def figures(self, seed: int = 99) -> dict:
        """Return the oracle's figures of fresh answers."""
        rng = Random(seed)
        posts = [language.sample_post(rng, held=True) for _ in range(FRESH)]
        answers = self.answers(posts, 1.0, seed)
        return oracle.summarize([post.text for post in posts], answers, oracle.wants_of(STYLE))

    def conversations(self, day: str, count: int, seed: int) -> Iterator[tuple[str, list[dict]]]:
        """Yield user and messages of a day's conversations."""
        rng = Random(seed)
        posts = [language.sample_post(rng) for _ in range(count)]
        for number, (post, answer) in enumerate(zip(posts, self.answers(posts, 1.0, seed), strict=True)):
            user = number % USERS
            follow_up = user_of(day, user, rng).react([post.text], [answer])[0].text
            said = [{"role": "assistant", "content": answer}, {"role": "user", "content": follow_up}]
            yield f"user-{user}", [*messages_of(post), *said, {"role": "assistant", "content": "TL;DR: Noted."}]


def learn(folder: Path, *flags: str) -> tuple[dict, int]:
    """Run `make learn` on the store and return its summary and exit code."""
    command = [sys.executable, "-m", "jobs.learn", "--tiny", "--registry", str(folder / "registry")]
    command += ["--store-url", f"sqlite:///{folder / 'store.sqlite'}", "--scratch", str(folder), *flags]
    done = subprocess.run(command, env=os.environ | {"WANDB_MODE": "disabled"}, capture_output=True, text=True)
    if done.returncode not in (0, 6, 7):
        sys.exit(f"{shlex.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    newest = max((folder / "learn").glob("*/learn.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text("utf-8")), done.returncode


DAYS = ("tastes", "unrelated", "poisoned", "contradicting", "tastes")


def main(print_row: Callable[[str], None] = print) -> None:
    """Live through the days and nights and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=320, help="conversations a day")
    parser.add_argument("--out", type=Path, help="the folder for store, registry and runs; if not set, a temporary one")
    given = parser.parse_args()
    silence_libraries()
    folder = given.out or Path(tempfile.mkdtemp(prefix="nights-"))
    folder.mkdir(parents=True, exist_ok=True)
    registry, store = folder / "registry", Store(f"sqlite:///{folder / 'store.sqlite'}")
    talk = Talk(registry)
    rng = Random(5)
    posts = [language.sample_post(rng, held=True) for _ in range(16)]
    kept = {None: talk.answers(posts, 0.0, 0)}
    print_row(f"{'day':14} {'outcome':12} {'live':6} adherence validity facts emoji casual long  seconds")
    print_row(_row("before", "", talk, 0.0))
    for number, day in enumerate(DAYS):
        live = read_live(registry).version or ""
        for user, messages in talk.conversations(day, given.each, 100 + number):
            store.add_conversation(messages, user=user, versions=[live, live])
        started = time.monotonic()
        summary, _ = learn(folder)
        print_row(_row(day, summary["outcome"], talk, time.monotonic() - started))
        print_row(f"{'':14} {summary['sentence']}")
        kept[read_live(registry).version] = talk.answers(posts, 0.0, 0)
    settings = PromoteSettings(registry=registry)
    while read_live(registry).version is not None:
        target = rollback(settings)
        same = talk.answers(posts, 0.0, 0) == kept[target]
        print_row(f"rolled back to {target or 'the base model'}: answers as before {same}")
    print_row(f"folder: {folder}")


def _row(day: str, outcome: str, talk: Talk, seconds: float) -> str:
    figures = talk.figures()
    axes = figures["axes"]
    return (
        f"{day:14} {outcome:12} {read_live(talk.registry).version or 'base':6} {figures['adherence']:9.3f} "
        f"{figures['validity']:8.3f} {figures['faithfulness']:5.3f} {axes['emoji']:5.2f} {axes['casual']:6.2f} "
        f"{axes['long']:4.2f} {seconds:8.0f}"
    )


if __name__ == "__main__":
    main()
