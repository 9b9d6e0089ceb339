"""One evaluation, from the validation prompts to the report: answers, verdicts, win rates."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from sdpo import progress
from sdpo import settings as settings_module
from sdpo.errors import BudgetReached, SettingError
from sdpo.evaluate import benchmarks, judge_truth, judges, prompts, release, results, trained_run, win_rates
from sdpo.evaluate.answers import Answer, Decoding, LocalAnswers, ServerAnswers
from sdpo.evaluate.condition_session import measure_condition
from sdpo.evaluate.evidence import JudgeTruth
from sdpo.evaluate.fingerprints import EvaluatedModel, checkpoint_model, identity, model_at
from sdpo.evaluate.models import ModelCache, tokenizer_of
from sdpo.evaluate.prompts import EvaluationPrompt
from sdpo.evaluate.release_rules import Evidence, decide
from sdpo.evaluate.store import Store, key_of
from sdpo.llm import OpenAIBackend, ReplyCache
from sdpo.models.pretrained import silence_libraries
from sdpo.runtime.commands import resume_command
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.chat import encode_prompt
from sdpo.text.prompts import earlier_turns
from sdpo.users.judge import Pair, VerdictPair

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import EvalSettings

# The timeout of collectives: one process may generate or judge for a long time while the others wait.
_PROCESS_TIMEOUT = timedelta(hours=24)
_API_JUDGES = ("claude", "server")  # kinds of judges that only the main process asks, and that may cost money


class EvalSession:
    """One evaluation of a run; every process of the job has one."""

    files: Sequence[str] = results.FILES

    def __init__(self, settings: "EvalSettings", job: "Job") -> None:
        silence_libraries()
        self.settings, self.job = settings, job
        # Without `cpu`, the processes do not find each other on a machine without GPUs.
        self.state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PROCESS_TIMEOUT)
        self.trained_run = trained_run.evaluated_run(settings)
        self.baseline = trained_run.baseline_model(settings, self.trained_run)
        self.base = self.trained_run.model or self.baseline  # what the run started from
        self.persona = prompts.judged_persona(settings, self.trained_run) or prompts.OWN_FOLLOW_UPS
        self.steps = trained_run.chosen_checkpoints(settings, self.trained_run)
        self.folder = RunDirectory(settings.run_directory_path)
        if self.state.is_main_process:
            self.folder.path.mkdir(parents=True, exist_ok=True)
            self.folder.lock()
            results.archive_earlier_results(self.folder, settings, self.files)
            print(f"evaluation directory: {self.folder.path}", flush=True)
        self.state.wait_for_everyone()
        self.model_cache = ModelCache(settings.precision)
        # Both read the files of all processes, so no process may write before all have read.
        self.verdicts = Store(self.folder.path, "verdicts", self.state.process_index)
        self.judge_truth: dict[str, JudgeTruth] = {}
        self.source = self._answer_source()
        self.state.wait_for_everyone()

    def run(self) -> int:
        """Answer, judge and report; return the exit code: 7 if no checkpoint is released, else 0."""
        used, too_long = self._prompts()
        models = self._models()
        weights = self.weights_of(models)
        compared = benchmarks.Models(models, weights, self.model_cache, self._server_backend_of)
        benchmark_report = benchmarks.measure(self.settings, self.state, self.folder.path, compared)
        messages = [prompt.messages for prompt in used]
        answers = {name: self.source.of(models[name], weights[name], messages) for name in models}
        self.model_cache.clear()
        if isinstance(self.source, ServerAnswers):
            answers = self._broadcast(answers)
        conditions, notes = measure_condition(self, used, models, weights, answers)
        verdict_pairs = self.verdicts_by_judge(self.settings.judges, used, answers)
        if not self.state.is_main_process:
            return 0
        oracle = judge_truth.find_oracle(self.settings, self.job)
        truths = judge_truth.with_rule(self.judge_truth, oracle, used, answers, verdict_pairs)
        conversations = prompts.conversations_of(used)
        table = win_rates.table_rows(self.steps, answers, verdict_pairs, conversations, self.settings.seed)
        overlap = self._training_overlap(used)
        by_judge = {truth.judge: truth for truth in truths}
        evidence = Evidence(table, benchmark_report.changes, conditions, by_judge, overlap, conversations)
        decision = decide(evidence, self.settings)
        judge_warnings = judge_truth.warnings(truths, self.settings.min_judge_truth)
        comparison = results.Comparison(
            prompts=used,
            too_long=too_long,
            persona=self.persona,
            weights=weights,
            generated=self.source.generated,
            answers=answers,
            verdict_pairs=verdict_pairs,
            rows=table,
            agreement=win_rates.agreement(verdict_pairs),
            benchmarks=benchmark_report.changes,
            benchmark_scores=benchmark_report.scores,
            warnings=[*_overlap_warning(overlap, used), *win_rates.warnings(table), *judge_warnings],
            judge_truth=truths,
            judge_warnings=judge_warnings,
            fits=judge_truth.fits(oracle, used, answers),
            release=decision,
            condition=conditions,
            condition_notes=notes,
        )
        results.write(self.folder, self.settings, self.trained_run, comparison)
        return release.exit_code(decision, self.settings)

    # What is compared

    def _prompts(self) -> tuple[list[EvaluationPrompt], int]:
        """Return the first EVAL_N prompts within MAX_PROMPT_TOKENS, and the number of longer ones skipped before.

        A prompt that occurs again, with the same persona, would be counted as evidence of its own.
        """
        settings, file = self.settings, trained_run.prompts_file(self.settings)
        tokenizer = tokenizer_of(self._baseline(self.base))
        used: list[EvaluationPrompt] = []
        too_long = repeated = 0
        seen = set()
        for prompt in prompts.evaluation_prompts(settings, self.trained_run, self.job):
            if len(encode_prompt(tokenizer, prompt.messages)) > settings.max_prompt_tokens:
                too_long += 1
            elif (key := key_of(prompt.messages, prompt.persona)) in seen:
                repeated += 1
            else:
                seen.add(key)
                used.append(prompt)
            if len(used) == settings.eval_n:
                break
        asked_for = not self.trained_run.is_offline or "eval_n" in settings_module.given(settings)
        if not used or (asked_for and len(used) < settings.eval_n):
            different = f"different prompts ({repeated} are repeated)" if repeated else "prompts"
            raise SettingError(
                f"EVAL_N={settings.eval_n}, but {file} has only {len(used)} {different} of at most "
                f"{settings.max_prompt_tokens} tokens. Lower EVAL_N or raise MAX_PROMPT_TOKENS."
            )
        if self.state.is_main_process:
            again = f", {repeated} repeated" if repeated else ""
            count = len(set(prompts.conversations_of(used)))
            of = f" of {count} conversations, each of which counts as one case" if count < len(used) else ""
            skipped = f"skipped {too_long} over {settings.max_prompt_tokens} tokens{again}"
            print(f"{len(used)} prompts{of}; {skipped}", flush=True)
        return used, too_long

    def _models(self) -> dict[str, EvaluatedModel]:
        """Return the models by name: the baseline, then the complete checkpoints, those with adapters first."""
        checkpoints = [checkpoint_model(step, folder, self.base) for step, folder in self.steps.items()]
        models = [self._baseline(self.baseline), *sorted(checkpoints, key=lambda model: model.base is None)]
        return {model.name: model for model in models}

    def _baseline(self, source: str) -> EvaluatedModel:
        return model_at(win_rates.BASELINE, source)

    def weights_of(self, models: dict[str, EvaluatedModel]) -> dict[str, str]:
        """Return what each model's answers are stored under. Collective: only the main process reads the files."""
        weights = None
        if self.state.is_main_process:
            known = Store(self.folder.path, "weights")
            named = progress.each(models.items(), "fingerprints of the weights", "models", len(models))
            weights = {name: identity(model, known) for name, model in named}
        return self._broadcast(weights)

    def _broadcast(self, value: Any) -> Any:
        """Return the main process's value on every process."""
        holder = [value]
        broadcast_object_list(holder)
        return holder[0]

    def _answer_source(self) -> LocalAnswers | ServerAnswers:
        settings, folder = self.settings, self.folder.path
        decoding = Decoding(settings.max_completion_tokens, settings.eval_temperature, settings.seed)
        if settings.answer_url is None:
            store = Store(folder, "answers", self.state.process_index)
            return LocalAnswers(store, self.model_cache, self.state, decoding, settings.eval_batch_size)
        return ServerAnswers(
            ReplyCache(folder / "served.jsonl") if self.state.is_main_process else ReplyCache(),
            self.state,
            decoding,
            self._server_backend_of,
            settings.concurrency,
            settings.judge_timeout,
        )

    def _server_backend_of(self, model: EvaluatedModel) -> OpenAIBackend:
        """Return the backend of a model that the server has under its folder's name, the baseline under its own."""
        return OpenAIBackend(
            self.settings.answer_url or "",
            self.baseline if model.name == win_rates.BASELINE else model.name,
            self.settings.answer_api_key,
            url_setting="ANSWER_URL",
            model_setting="the names of the server's models",
            key_setting="ANSWER_API_KEY",
        )

    # Verdicts

    def verdicts_by_judge(
        self, names: Sequence[str], used: Sequence[EvaluationPrompt], answers: dict[str, list[Answer]]
    ) -> dict[str, dict[str, list[VerdictPair | None]]]:
        """Return judge -> checkpoint -> verdicts in both orders, None for a prompt with two identical answers."""
        kinds = {judge: judges.judge_kind(judge, self.settings) for judge in names}
        # Judges that all processes run come first; after these, only the main process has work left.
        order = sorted(kinds, key=lambda judge: kinds[judge] in _API_JUDGES)
        # What each has cost, that of an earlier evaluation too: one that comes later may have the larger share of it.
        api = [judge for judge in order if kinds[judge] in _API_JUDGES and self.state.is_main_process]
        costs = {judge: judges.cached_cost(judge, self.settings, self.folder.path) for judge in api}
        verdict_pairs = {}
        for judge in order:
            if kinds[judge] != "local" and not self.state.is_main_process:
                continue
            spent = sum(cost for other, cost in costs.items() if other != judge)
            pairwise_judge = self._build_judge(judge, kinds[judge], spent)
            try:
                if self.settings.judge_truth and judge_truth.any_differ(answers):
                    self.judge_truth[judge] = judge_truth.measure(
                        judge, pairwise_judge, judge_truth.labelled_pairs(self.base)
                    )
                verdict_pairs[judge] = self._verdicts_by(judge, pairwise_judge, used, answers)
            except BudgetReached as error:
                resume = resume_command(self.settings, self.job.name, correct=["max_cost"])
                raise BudgetReached(f"{error} The verdicts so far are stored; resume with {resume}") from None
            finally:
                costs[judge] = self._record_cost(judge, pairwise_judge)
            self.model_cache.clear()
        return {judge: verdict_pairs[judge] for judge in kinds if judge in verdict_pairs}

    def _build_judge(self, judge: str, kind: str, spent: float) -> judges.PairwiseJudge:
        if kind == "oracle":
            return judges.OracleJudge(judges.make_oracle(self.settings, self.job))
        if kind != "local":
            return judges.ApiPairwiseJudge(judge, self.settings, self.folder.path, spent)
        model = {judge: EvaluatedModel(judge, judges.judge_source(judge), setting="JUDGE_MODEL")}
        weights = self.weights_of(model)[judge]
        return judges.LocalPairwiseJudge(
            model[judge], weights, self.verdicts, self.model_cache, self.state, self.settings.judge_batch_size
        )

    def _verdicts_by(
        self,
        judge: str,
        pairwise_judge: judges.PairwiseJudge,
        used: Sequence[EvaluationPrompt],
        answers: dict[str, list[Answer]],
    ) -> dict[str, list[VerdictPair | None]]:
        """Return checkpoint -> verdicts of one judge; a pair that occurs more than once is judged once."""
        verdicts: dict[Pair, VerdictPair] = {}
        by_checkpoint: dict[str, list[VerdictPair | None]] = {}
        for name in answers:
            if name == win_rates.BASELINE:
                continue
            pairs = [
                None
                if same(one.text, other.text)
                else Pair(prompt.persona, prompt.text, one.text, other.text, earlier_turns(prompt.messages))
                for prompt, one, other in zip(used, answers[name], answers[win_rates.BASELINE], strict=True)
            ]
            new = [pair for pair in dict.fromkeys(pairs) if pair is not None and pair not in verdicts]
            if new:
                with progress.task(f"{judge} on {name}", len(new), "pairs") as under:
                    verdicts |= zip(new, pairwise_judge.verdict_pairs(new, under), strict=True)
                    under.done = len(new)
            by_checkpoint[name] = [None if pair is None else verdicts[pair] for pair in pairs]
        return by_checkpoint

    def _record_cost(self, judge: str, pairwise_judge: judges.PairwiseJudge) -> float:
        """Record and print what a judge behind an API has cost so far, and return it in dollars; 0 without a price."""
        if not isinstance(pairwise_judge, judges.ApiPairwiseJudge):
            return 0.0
        usage, priced = pairwise_judge.client.usage, pairwise_judge.client.meter.price is not None
        meters = self.folder.read_json("meter.json") or {}
        cost = round(usage.cost, 6) if priced else None
        self.folder.write_json("meter.json", meters | {judge: {**asdict(usage), "cost": cost}})
        line = f"{judge}: {usage.requests} requests, {usage.tokens_in:,} tokens in, {usage.tokens_out:,} out"
        print(line + (f", ${usage.cost:.4f}" if priced else ""), flush=True)
        return usage.cost

    def _training_overlap(self, used: Sequence[EvaluationPrompt]) -> int | None:
        """Return the number of prompts that the run may have been trained on; None if that is not known."""
        trained = prompts.trained_conversations(self.trained_run, self.job)
        if trained is None:
            return None
        return sum(prompts.conversation(prompt.messages) in trained for prompt in used)


def _overlap_warning(overlap: int | None, used: Sequence[EvaluationPrompt]) -> list[str]:
    if overlap is None:
        return [
            "the run's training files are not where they were: whether it was trained on these prompts is not known"
        ]
    return [f"{overlap} of the {len(used)} prompts are in the run's training files"] if overlap else []


def same(one: str, other: str) -> bool:
    """Return whether two answers are identical up to surrounding whitespace: a tie, without asking a judge."""
    return one.strip() == other.strip()
