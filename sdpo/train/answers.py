"""Sampled answers to validation prompts before and after training: adherence, validity, length."""

from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from sdpo.models.generate import generate
from sdpo.text.chat import encode_answer, encode_prompt
from sdpo.text.prompts import Message
from sdpo.train.record import BaseTrainer
from sdpo.train.start_model import StartModel, quality_figures

if TYPE_CHECKING:
    from sdpo.settings import TrainingSettings
    from sdpo.users.oracle import Oracle


def measure_answers(
    trainer: BaseTrainer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[Message]],
    settings: "TrainingSettings",
    max_new_tokens: int,
    temperature: float,
    oracle: "Oracle | None",
    start: StartModel | None,
    shown: bool = False,
    label: str = "answers",
) -> tuple[dict[str, Any], list[dict]]:
    """Sample an answer to each prompt; return the figures of `summarize`, with the quality that `start` measures.

    The answers themselves come second, as rows with prompt, answer and finished. Every process answers a share. With
    `shown` the policy is shown the wish when it answers; the figures are those of
    answers to the prompts alone. `label` says what is generated while it is.
    """
    accelerator = trainer.accelerator
    # The same number on every process: under FSDP all processes have to run the same forwards.
    share = -(-len(prompts) // accelerator.num_processes)
    first = accelerator.process_index * share
    rank_prompts = (prompts[first : first + share] + prompts)[:share]
    counted = len(prompts[first : first + share])
    contexts = [start.with_wish(prompt) for prompt in rank_prompts] if shown and start else rank_prompts
    answers = generate(
        accelerator.unwrap_model(trainer.model),
        tokenizer,
        [encode_prompt(tokenizer, prompt) for prompt in contexts],
        max_new_tokens,
        settings.eval_batch_size,
        temperature=temperature,
        seed=settings.seed + accelerator.process_index,
        label=label,
    )
    posts = [prompt[-1]["content"] for prompt in rank_prompts]
    rank_rows = [(post, *answer) for post, answer in zip(posts, answers, strict=True)][:counted]
    answered = gather_object(rank_rows)
    figures = summarize(answered, oracle)
    rows = [{"prompt": post, "answer": text, "finished": finished} for post, text, finished in answered]
    if start is None:
        return figures, rows
    qualities = start.quality(rank_prompts, [encode_answer(tokenizer, *answer) for answer in answers])[:counted]
    figures |= quality_figures(qualities)
    distance = start.distance(trainer.model)
    return figures | ({} if distance is None else {"distance": round(distance, 4)}), rows


def summarize(answers: list[tuple[str, str, bool]], oracle: "Oracle | None") -> dict[str, Any]:
    """Return the figures of (prompt text, answer, finished) triples, measured by the oracle if there is one.

    Without an oracle an answer is valid if it is not empty and the model ended it itself, and adherence is None: a
    judge can measure it (`make eval`).
    """
    posts = [post for post, _, _ in answers]
    texts = [text for _, text, _ in answers]
    if oracle is not None:
        return oracle.summarize(posts, texts)
    return {
        "adherence": None,
        "validity": sum(bool(text.strip()) and finished for _, text, finished in answers) / len(texts),
        "mean_length": sum(len(text.split()) for text in texts) / len(texts),
        "axes": {},
        "answers": len(texts),
    }


def read_completions(prompts: list[str], completions: list[str], oracle: "Oracle") -> dict[str, Any]:
    """Return the oracle's figures of one step's completions: adherence, validity and the share of each style axis."""
    figures = oracle.summarize(prompts, completions)
    return {name: figures[name] for name in ("adherence", "validity", "axes")}
