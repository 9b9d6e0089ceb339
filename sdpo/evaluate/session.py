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
from sdpo.errors import BudgetReached, SettingError
from sdpo.evaluate import judges, results, trained_run, win_rates
from sdpo.evaluate.answers import Answer, Decoding, LocalAnswers, ServerAnswers
from sdpo.evaluate.comparison import EvaluationPrompt
from sdpo.evaluate.models import EvaluatedModel, ModelCache, checkpoint_model, fingerprint, tokenizer_of
from sdpo.evaluate.store import Store
from sdpo.llm import OpenAIBackend, ReplyCache
from sdpo.models.pretrained import silence_libraries
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.chat import encode_prompt
from sdpo.text.records import read_prompts
from sdpo.train.online.data import training_prompts
from sdpo.users.judge import Pair, VerdictPair

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import EvalSettings

# One process may judge or answer for long while the others wait for it.
_PROCESS_TIMEOUT = timedelta(hours=24)


class EvalSession:
    """Holds what one evaluation compares, in each of its processes."""

    def __init__(self, settings: "EvalSettings", job: "Job") -> None:
        silence_libraries()
        self.settings, self.job = settings, job
        # Without the word, processes on a CPU do not find each other.
        self.state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PROCESS_TIMEOUT)
        self.trained_run = trained_run.read_run(settings.run_dir)
        self.persona = trained_run.persona(settings, self.trained_run)
        self.steps = trained_run.chosen_checkpoints(settings, self.trained_run)
        self.folder = RunDirectory(settings.output_dir)
        if self.state.is_main_process:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            self.folder.lock()
            results.set_earlier_aside(self.folder, settings)
            print(f"evaluation directory: {self.folder.path}", flush=True)
        self.state.wait_for_everyone()
        self.model_cache = ModelCache(settings.precision)
        self.verdicts = Store(self.folder.path, "verdicts", self.state.process_index)
        self.source = self._answers()  # both read before any process writes
        self.state.wait_for_everyone()

    def run(self) -> int:
        """Answer, judge and report; return 1 where a checkpoint was missing, else 0."""
        prompts, left_out = self._prompts()
        models = self._models()
        weights = self._weights(models)
        messages = [prompt.messages for prompt in prompts]
        answers = {name: self.source.of(models[name], weights[name], messages) for name in models}
        self.model_cache.clear()
        if isinstance(self.source, ServerAnswers):
            answers = self._broadcast(answers)
        verdict_pairs = self._all_verdicts(prompts, answers)
        if not self.state.is_main_process:
            return 0
        table = win_rates.table_rows(self.steps, answers, verdict_pairs, self.settings.seed)
        comparison = results.Comparison(
            prompts=prompts,
            too_long=left_out,
            persona=self.persona,
            weights=weights,
            generated=self.source.generated,
            answers=answers,
            verdict_pairs=verdict_pairs,
            rows=table,
            agreement=win_rates.agreement(verdict_pairs),
            warnings=[*self._training_overlap(prompts), *win_rates.warnings(table)],
        )
        results.write(self.folder, self.settings, self.trained_run, comparison)
        missing = [f"checkpoint-{step}" for step, folder in self.steps.items() if folder is None]
        if missing:
            print(f"error: {', '.join(missing)} of {self.trained_run.path}: not there, or not whole", file=sys.stderr)
        return 1 if missing else 0

    # What is compared

    def _prompts(self) -> tuple[list[EvaluationPrompt], int]:
        """Return the first EVAL_N prompts that are short enough, and how many on the way were not."""
        settings, job = self.settings, trained_run.job_as_trained(self.job, self.trained_run)
        tokenizer = tokenizer_of(self._baseline(self.trained_run.model or settings.baseline))
        kept: list[EvaluationPrompt] = []
        left_out = 0
        for row in training_prompts(read_prompts(settings.val_jsonl, job.data_command), job):
            if len(encode_prompt(tokenizer, row["prompt"])) > settings.max_prompt_tokens:
                left_out += 1
            else:
                kept.append(EvaluationPrompt(row["id"], row["prompt"][-1]["content"], row["prompt"]))
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

    def _models(self) -> dict[str, EvaluatedModel]:
        """Return the models by name: the baseline, then the checkpoints that are there; adapters together."""
        base = self.trained_run.model or self.settings.baseline
        there = [checkpoint_model(step, folder, base) for step, folder in self.steps.items() if folder]
        models = [self._baseline(self.settings.baseline), *sorted(there, key=lambda found: found.base is None)]
        return {model.name: model for model in models}

    def _baseline(self, source: str) -> EvaluatedModel:
        return EvaluatedModel(win_rates.BASELINE, source)

    def _weights(self, models: dict[str, EvaluatedModel]) -> dict[str, str]:
        """Return each model's fingerprint. The main process reads the files, and tells the others."""
        found = None
        if self.state.is_main_process:
            known = Store(self.folder.path, "weights")
            found = {name: fingerprint(model, known) for name, model in models.items()}
        return self._broadcast(found)

    def _broadcast(self, value: Any) -> Any:
        """Return the main process's value, in every process."""
        holder = [value]
        broadcast_object_list(holder)
        return holder[0]

    def _answers(self) -> LocalAnswers | ServerAnswers:
        settings, folder = self.settings, self.folder.path
        decoding = Decoding(settings.max_completion_tokens, settings.eval_temperature, settings.seed)
        if settings.answer_url is None:
            store = Store(folder, "answers", self.state.process_index)
            return LocalAnswers(store, self.model_cache, self.state, decoding, settings.eval_batch_size)
        return ServerAnswers(
            ReplyCache(folder / "served.jsonl") if self.state.is_main_process else ReplyCache(),
            self.state,
            decoding,
            self._server_backend,
            settings.concurrency,
            settings.judge_timeout,
        )

    def _server_backend(self, model: EvaluatedModel) -> OpenAIBackend:
        """Return the server's model: a checkpoint goes by its folder's name there, the baseline by its own."""
        return OpenAIBackend(
            self.settings.answer_url,
            self.settings.baseline if model.name == win_rates.BASELINE else model.name,
            self.settings.answer_api_key,
            url_setting="ANSWER_URL",
            model_setting="the names of the server's models",
            key_setting="ANSWER_API_KEY",
        )

    # Verdicts

    def _all_verdicts(
        self, prompts: Sequence[EvaluationPrompt], answers: dict[str, list[Answer]]
    ) -> dict[str, dict[str, list[VerdictPair | None]]]:
        """Return what each judge said of each checkpoint's answers; None where both answers are the same."""
        kinds = {judge: judges.judge_kind(judge, self.settings) for judge in self.settings.judges}
        # Those that all processes take part in first: the others wait for nobody after that.
        order = sorted(kinds, key=lambda judge: kinds[judge] in ("claude", "server"))
        found, spent = {}, 0.0
        for judge in order:
            if kinds[judge] != "local" and not self.state.is_main_process:
                continue
            pairwise_judge = self._build_judge(judge, kinds[judge], spent)
            try:
                found[judge] = self._verdicts_by(judge, pairwise_judge, prompts, answers)
            except BudgetReached as error:
                raise BudgetReached(
                    f"{error} What was said so far is kept; go on with {self._resume_command()}"
                ) from None
            finally:
                spent += self._record_cost(judge, pairwise_judge)
            self.model_cache.clear()
        return {judge: found[judge] for judge in kinds if judge in found}

    def _build_judge(self, judge: str, kind: str, spent: float) -> judges.PairwiseJudge:
        if kind == "oracle":
            return judges.OracleJudge(judges.make_oracle(self.job.load_oracle(), self.settings.style))
        if kind != "local":
            return judges.ApiPairwiseJudge(judge, self.settings, self.folder.path, spent)
        model = {judge: EvaluatedModel(judge, judges.judge_source(judge), setting="JUDGE_MODEL")}
        weights = self._weights(model)[judge]
        return judges.LocalPairwiseJudge(
            model[judge], weights, self.verdicts, self.model_cache, self.state, self.settings.judge_batch_size
        )

    def _verdicts_by(
        self,
        judge: str,
        pairwise_judge: judges.PairwiseJudge,
        prompts: Sequence[EvaluationPrompt],
        answers: dict[str, list[Answer]],
    ) -> dict[str, list[VerdictPair | None]]:
        verdicts: dict[Pair, VerdictPair] = {}
        found = {}
        for name in answers:
            if name == win_rates.BASELINE:
                continue
            pairs = [
                None if same(one.text, other.text) else Pair(self.persona, prompt.text, one.text, other.text)
                for prompt, one, other in zip(prompts, answers[name], answers[win_rates.BASELINE], strict=True)
            ]
            new = [pair for pair in dict.fromkeys(pairs) if pair is not None and pair not in verdicts]
            report_progress = (
                judges.progress(judge, name, len(new)) if self.state.is_main_process else lambda done: None
            )
            if new:
                verdicts |= zip(new, pairwise_judge.verdict_pairs(new, report_progress), strict=True)
                report_progress(len(new))
            found[name] = [None if pair is None else verdicts[pair] for pair in pairs]
        return found

    def _record_cost(self, judge: str, pairwise_judge: judges.PairwiseJudge) -> float:
        """Write and say what a judge behind an API has cost so far, and return it."""
        if not isinstance(pairwise_judge, judges.ApiPairwiseJudge):
            return 0.0
        usage, priced = pairwise_judge.client.usage, pairwise_judge.client.meter.price is not None
        meters = self.folder.read_json("meter.json") or {}
        cost = round(usage.cost, 6) if priced else None
        self.folder.write_json("meter.json", meters | {judge: {**asdict(usage), "cost": cost}})
        words = f"{judge}: {usage.requests} requests, {usage.tokens_in:,} tokens in, {usage.tokens_out:,} out"
        print(words + (f", ${usage.cost:.4f}" if priced else ""), flush=True)
        return usage.cost

    def _resume_command(self) -> str:
        given = {name: value for name, value in settings_module.given(self.settings).items() if name != "max_cost"}
        words = [f"{name.upper()}={shlex.quote(str(value))}" for name, value in given.items()]
        return " ".join(["make", self.job.name, *words, "MAX_COST=..."])

    def _training_overlap(self, prompts: Sequence[EvaluationPrompt]) -> list[str]:
        seen = trained_run.trained_on(self.settings, self.trained_run, self.job)
        suffix = trained_run.job_as_trained(self.job, self.trained_run).prompt_suffix
        seen = {text.removesuffix(suffix) for text in seen}
        both = sum(prompt.text in seen for prompt in prompts)
        return [f"{both} of the {len(prompts)} prompts are in the run's training file"] if both else []


def same(one: str, other: str) -> bool:
    """Return whether two answers are the same to a reader: then no judge is asked, and it is a tie."""
    return one.strip() == other.strip()
