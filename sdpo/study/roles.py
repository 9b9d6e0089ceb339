"""Measures how well a tiny model plays its roles, on posts and combinations of wording held out from its training.

python -m sdpo.study.roles [MODEL_DIR] [--answers 1024]
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdpo.models.generate import generate
from sdpo.text import hindsight, prompts
from sdpo.text.chat import encode_prompt
from sdpo.tiny import MODEL_DIR, language, oracle
from sdpo.tiny.language import AXES
from sdpo.users.judge import LocalJudge, Pair

Row = tuple[str, float, int]  # name, share or difference of shares, number of answers it is over


class RoleEvaluator:
    """Gives a model new tasks of each role, which the oracle evaluates; `answers` is their number per measure."""

    def __init__(self, model_dir: Path, answers: int, seed: int = 1234) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self.model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
        self.count, self.rng = answers, Random(seed)

    def answers(self) -> list[Row]:
        """Return validity, faithfulness and axis shares without hindsight, and how much other follow-ups move them.

        The other follow-ups are thanks and unrelated ones, which should leave the shares unchanged.
        """
        plain, rows = self._read(lambda: None), []
        rows += [(name, plain[name], self.count) for name in ("validity", "faithfulness")]
        rows += [(f"share {axis}", plain["axes"][axis], self.count) for axis in AXES]
        for name, write in (("unrelated", language.write_unrelated), ("thanks", language.write_thanks)):
            shown = self._read(partial(write, self.rng, held=True))
            rows += [
                (f"{name}: {axis} moves by", shown["axes"][axis] - plain["axes"][axis], self.count) for axis in AXES
            ]
        return rows

    def hindsight(self) -> list[Row]:
        """Return, for each request of a user, the share of answers with it in hindsight that comply."""
        rows = []
        for axis in AXES:
            for value in (True, False):
                wanted = {axis: value}
                shown = self._read(partial(language.write_request, self.rng, wanted, held=True), wanted)
                rows.append((f"obeys {axis}={value}", shown["adherence"], self.count))
        return rows

    def user(self) -> list[Row]:
        """Return, for each persona, the share of follow-ups that fit it and the answer, at temperature 0.7."""
        rows, each = [], max(64, self.count // len(oracle.tiny_personas()))
        for style, (persona, wanted) in oracle.tiny_personas().items():
            posts, completions = self._exchanges(each)
            messages = [prompts.user_messages(persona, *pair) for pair in zip(posts, completions, strict=True)]
            replies = self._generate(messages, temperature=0.7)
            correct = [
                oracle.read_follow_up(reply) == oracle.react(text, wanted)
                for reply, text in zip(replies, completions, strict=True)
            ]
            rows.append((f"user {style}", sum(correct) / each, each))
        return rows

    def judge(self) -> list[Row]:
        """Return, for each persona, the share of pairs judged correctly in both orders."""
        rows, each = [], max(64, self.count // len(oracle.tiny_personas()))
        judge = LocalJudge(self.model, self.tokenizer)
        for style, (persona, wanted) in oracle.tiny_personas().items():
            posts = [language.sample_post(self.rng, held=True) for _ in range(each)]
            pairs = [Pair(persona, post.text, self._write(post), self._write(post)) for post in posts]
            firsts = judge.verdicts(pairs)
            seconds = judge.verdicts([pair.swapped() for pair in pairs])
            correct = [
                (first, second)
                == (oracle.verdict(pair.first, pair.second, wanted), oracle.verdict(pair.second, pair.first, wanted))
                for pair, first, second in zip(pairs, firsts, seconds, strict=True)
            ]
            rows.append((f"judge {style}", sum(correct) / each, each))
        return rows

    def _write(self, post: language.Post) -> str:
        return language.write_answer(self.rng, post, language.sample_style(self.rng))

    def _exchanges(self, count: int) -> tuple[list[str], list[str]]:
        posts = [language.sample_post(self.rng, held=True) for _ in range(count)]
        return [post.text for post in posts], [self._write(post) for post in posts]

    def _read(self, follow_up: Callable[[], str | None], wanted: dict[str, bool] | None = None) -> dict:
        """Return the oracle's summary of answers to new posts, each with a follow-up in hindsight, or None without."""
        posts, messages = [language.sample_post(self.rng, held=True).text for _ in range(self.count)], []
        for post in posts:
            prompt = [{"role": "system", "content": prompts.SUMMARY_SYSTEM}, {"role": "user", "content": post}]
            shown = follow_up()
            messages.append(hindsight.with_hindsight(prompt, shown) if shown else prompt)
        return oracle.summarize(posts, self._generate(messages, temperature=1.0), wanted or {})

    def _generate(self, messages: list[list[prompts.Message]], temperature: float) -> list[str]:
        ids = [encode_prompt(self.tokenizer, conversation) for conversation in messages]
        answers = generate(self.model, self.tokenizer, ids, 64, 128, temperature, seed=self.rng.randrange(2**31))
        return [text for text, _ in answers]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_dir", type=Path, nargs="?", default=MODEL_DIR)
    parser.add_argument(
        "--answers", type=int, default=1024, help="answers per line of the table, or per role for user and judge"
    )
    arguments = parser.parse_args()
    evaluator = RoleEvaluator(arguments.model_dir, arguments.answers)
    for part in (evaluator.answers, evaluator.hindsight, evaluator.user, evaluator.judge):
        rows = part()
        for name, value, count in rows:
            print(f"{name:<40} {value:6.3f}   n={count}", flush=True)
        if part in (evaluator.user, evaluator.judge):
            total = sum(value * count for _, value, count in rows) / sum(count for *_, count in rows)
            print(
                f"{part.__name__ + ' over all styles':<40} {total:6.3f}   n={sum(count for *_, count in rows)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
