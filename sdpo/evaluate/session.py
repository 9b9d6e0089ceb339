"""One evaluation from prompts to report: answers, verdicts, rows."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from sdpo import settings as settings_module
from sdpo.chat import encode_prompt
from sdpo.errors import BudgetSpent, SettingError
from sdpo.evaluate import judges, results, rows, trained, winrate
from sdpo.evaluate.answers import Answer, Decoding, LocalAnswers, ServerAnswers
from sdpo.evaluate.models import Contender, Shelf, checkpoint_contender, fingerprint, tokenizer_of
from sdpo.evaluate.results import Asked
from sdpo.evaluate.store import Store
from sdpo.judge import Pair, Ways
from sdpo.llm import OpenAIBackend, ReplyCache
from sdpo.pretrained import hush
from sdpo.records import read_prompts
from sdpo.run import RunDirectory
from sdpo.train.online import training_prompts

if TYPE_CHECKING:
    from sdpo.launch import Job
    from sdpo.settings import EvalSettings

# One process may judge or answer for long while the others wait for it.
_PATIENCE = timedelta(hours=24)


class EvalSession:
    """Holds what one evaluation compares, in each of its processes."""

    def __init__(self, settings: "EvalSettings", job: "Job") -> None:
        hush()
        self.settings, self.job = settings, job
        # Without the word, processes on a CPU do not find each other.
        self.state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
        self.trained = trained.read_run(settings.run_dir)
        self.persona = winrate.persona(settings, self.trained)
        self.steps = trained.chosen_checkpoints(settings, self.trained)
        self.folder = RunDirectory(settings.output_dir)
        if self.state.is_main_process:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            self.folder.lock()
            results.set_earlier_aside(self.folder, settings)
            print(f"evaluation directory: {self.folder.path}", flush=True)
        self.state.wait_for_everyone()
        self.shelf = Shelf(settings.precision)
        self.verdicts = Store(self.folder.path, "verdicts", self.state.process_index)
        self.source = self._answers()  # both read before any process writes
        self.state.wait_for_everyone()

    def run(self) -> int:
        """Answer, judge and report; return 1 where a checkpoint was missing, else 0."""
        prompts, left_out = self._prompts()
        contenders = self._contenders()
        weights = self._weights(contenders)
        messages = [prompt.messages for prompt in prompts]
        answers = {name: self.source.of(contenders[name], weights[name], messages) for name in contenders}
        self.shelf.clear()
        if isinstance(self.source, ServerAnswers):
            answers = self._told(answers)
        ways = self._judged(prompts, answers)
        if not self.state.is_main_process:
            return 0
        table = rows.table_rows(self.steps, answers, ways, self.settings.seed)
        comparison = results.Comparison(
            prompts=prompts,
            too_long=left_out,
            persona=self.persona,
            weights=weights,
            generated=self.source.generated,
            answers=answers,
            ways=ways,
            rows=table,
            agreement=rows.agreement(ways),
            warnings=[*self._overlap(prompts), *rows.warnings(table)],
        )
        results.write(self.folder, self.settings, self.trained, comparison)
        missing = [f"checkpoint-{step}" for step, folder in self.steps.items() if folder is None]
        if missing:
            print(f"error: {', '.join(missing)} of {self.trained.path}: not there, or not whole", file=sys.stderr)
        return 1 if missing else 0

    # What is compared

    def _prompts(self) -> tuple[list[Asked], int]:
        """Return the first EVAL_N prompts that are short enough, and how many on the way were not."""
        settings, job = self.settings, trained.as_trained(self.job, self.trained)
        tokenizer = tokenizer_of(self._baseline(self.trained.model or settings.baseline))
        kept: list[Asked] = []
        left_out = 0
        for row in training_prompts(read_prompts(settings.val_jsonl, job.data_command), job):
            if len(encode_prompt(tokenizer, row["prompt"])) > settings.max_prompt_tokens:
                left_out += 1
            else:
                kept.append(Asked(row["id"], row["prompt"][-1]["content"], row["prompt"]))
            if len(kept) == settings.eval_n:
                break
        if len(kept) < settings.eval_n:
            raise SettingError(
                f"EVAL_N={settings.eval_n}, but {settings.val_jsonl} has only {len(kept)} prompts of at most "
                f"{settings.max_prompt_tokens} tokens. Lower EVAL_N or raise MAX_PROMPT_TOKENS."
            )
        if self.state.is_main_process:
            limit = settings.max_prompt_tokens
            print(f"{len(kept)} prompts; {left_out} on the way were over {limit} tokens and left out", flush=True)
        return kept, left_out

    def _contenders(self) -> dict[str, Contender]:
        """Return the models by name: the baseline, then the checkpoints that are there; adapters together."""
        base = self.trained.model or self.settings.baseline
        there = [checkpoint_contender(step, folder, base) for step, folder in self.steps.items() if folder]
        models = [self._baseline(self.settings.baseline), *sorted(there, key=lambda found: found.base is None)]
        return {model.name: model for model in models}

    def _baseline(self, source: str) -> Contender:
        return Contender(rows.BASELINE, source)

    def _weights(self, contenders: dict[str, Contender]) -> dict[str, str]:
        """Return each model's fingerprint. The main process reads the files, and tells the others."""
        found = None
        if self.state.is_main_process:
            known = Store(self.folder.path, "weights")
            found = {name: fingerprint(contender, known) for name, contender in contenders.items()}
        return self._told(found)

    def _told(self, value: Any) -> Any:
        """Return the main process's value, in every process."""
        holder = [value]
        broadcast_object_list(holder)
        return holder[0]

    def _answers(self) -> LocalAnswers | ServerAnswers:
        settings, folder = self.settings, self.folder.path
        decoding = Decoding(settings.max_completion_tokens, settings.eval_temperature, settings.seed)
        if settings.answer_url is None:
            store = Store(folder, "answers", self.state.process_index)
            return LocalAnswers(store, self.shelf, self.state, decoding, settings.eval_batch_size)
        return ServerAnswers(
            ReplyCache(folder / "served.jsonl") if self.state.is_main_process else ReplyCache(),
            self.state,
            decoding,
            self._served,
            settings.concurrency,
            settings.judge_timeout,
        )

    def _served(self, contender: Contender) -> OpenAIBackend:
        """Return the server's model: a checkpoint goes by its folder's name there, the baseline by its own."""
        return OpenAIBackend(
            self.settings.answer_url,
            self.settings.baseline if contender.name == rows.BASELINE else contender.name,
            self.settings.answer_api_key,
            url_setting="ANSWER_URL",
            model_setting="the names of the server's models",
            key_setting="ANSWER_API_KEY",
        )

    # Verdicts

    def _judged(
        self, prompts: Sequence[Asked], answers: dict[str, list[Answer]]
    ) -> dict[str, dict[str, list[Ways | None]]]:
        """Return what each judge said of each checkpoint's answers; None where both answers are the same."""
        kinds = {judge: judges.kind_of(judge, self.settings) for judge in self.settings.judges}
        # Those that all processes take part in first: the others wait for nobody after that.
        order = sorted(kinds, key=lambda judge: kinds[judge] in ("claude", "server"))
        found, spent = {}, 0.0
        for judge in order:
            if kinds[judge] != "local" and not self.state.is_main_process:
                continue
            bench = self._bench(judge, kinds[judge], spent)
            try:
                found[judge] = self._by(judge, bench, prompts, answers)
            except BudgetSpent as error:
                raise BudgetSpent(f"{error} What was said so far is kept; go on with {self._again()}") from None
            finally:
                spent += self._note_cost(judge, bench)
            self.shelf.clear()
        return {judge: found[judge] for judge in kinds if judge in found}

    def _bench(self, judge: str, kind: str, spent: float) -> judges.Bench:
        if kind == "oracle":
            return judges.OracleBench(self.settings.style)
        if kind != "local":
            return judges.ApiBench(judge, self.settings, self.folder.path, spent)
        contender = {judge: Contender(judge, judges.source_of(judge), setting="JUDGE_MODEL")}
        weights = self._weights(contender)[judge]
        return judges.LocalBench(
            contender[judge], weights, self.verdicts, self.shelf, self.state, self.settings.judge_batch_size
        )

    def _by(
        self, judge: str, bench: judges.Bench, prompts: Sequence[Asked], answers: dict[str, list[Answer]]
    ) -> dict[str, list[Ways | None]]:
        said: dict[Pair, Ways] = {}
        found = {}
        for name in answers:
            if name == rows.BASELINE:
                continue
            pairs = [
                None if same(one.text, other.text) else Pair(self.persona, prompt.text, one.text, other.text)
                for prompt, one, other in zip(prompts, answers[name], answers[rows.BASELINE], strict=True)
            ]
            new = [pair for pair in dict.fromkeys(pairs) if pair is not None and pair not in said]
            say = judges.progress(judge, name, len(new)) if self.state.is_main_process else lambda done: None
            if new:
                said |= zip(new, bench.ways(new, say), strict=True)
                say(len(new))
            found[name] = [None if pair is None else said[pair] for pair in pairs]
        return found

    def _note_cost(self, judge: str, bench: judges.Bench) -> float:
        """Write and say what a judge behind an API has cost so far, and return it."""
        if not isinstance(bench, judges.ApiBench):
            return 0.0
        total, priced = bench.client.total, bench.client.meter.price is not None
        meters = self.folder.read_json("meter.json") or {}
        cost = round(total.cost, 6) if priced else None
        self.folder.write_json("meter.json", meters | {judge: {**asdict(total), "cost": cost}})
        words = f"{judge}: {total.requests} requests, {total.tokens_in:,} tokens in, {total.tokens_out:,} out"
        print(words + (f", ${total.cost:.4f}" if priced else ""), flush=True)
        return total.cost

    def _again(self) -> str:
        given = {name: value for name, value in settings_module.given(self.settings).items() if name != "max_cost"}
        words = [f"{name.upper()}={shlex.quote(str(value))}" for name, value in given.items()]
        return " ".join(["make", self.job.name, *words, "MAX_COST=..."])

    def _overlap(self, prompts: Sequence[Asked]) -> list[str]:
        seen = winrate.trained_on(self.settings, self.trained, self.job)
        suffix = trained.as_trained(self.job, self.trained).prompt_suffix
        seen = {text.removesuffix(suffix) for text in seen}
        both = sum(prompt.text in seen for prompt in prompts)
        return [f"{both} of the {len(prompts)} prompts are in the run's training file"] if both else []


def same(one: str, other: str) -> bool:
    """Return whether two answers are the same to a reader: then no judge is asked, and it is a tie."""
    return one.strip() == other.strip()
