"""What a policy's answers to validation prompts are like, before and after training."""

from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase, Trainer

from sdpo.models.generate import generate
from sdpo.text.chat import encode_prompt
from sdpo.text.prompts import Message

if TYPE_CHECKING:
    from sdpo.settings import TrainingSettings
    from sdpo.users.oracle import Oracle


def measure_answers(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[Message]],
    settings: "TrainingSettings",
    max_new_tokens: int,
    temperature: float,
    oracle: "Oracle | None",
) -> dict:
    """Return what sampled answers to the prompts are like (see `summarize`); every process answers a share."""
    accelerator = trainer.accelerator
    # As many for every process: where they share out the weights, all of them have to run the same forwards.
    each = -(-len(prompts) // accelerator.num_processes)
    first = accelerator.process_index * each
    mine = (prompts[first : first + each] + prompts)[:each]
    counted = len(prompts[first : first + each])
    answers = generate(
        accelerator.unwrap_model(trainer.model),
        tokenizer,
        [encode_prompt(tokenizer, prompt) for prompt in mine],
        max_new_tokens,
        settings.eval_batch_size,
        temperature=temperature,
        seed=settings.seed + accelerator.process_index,
    )
    posts = [prompt[-1]["content"] for prompt in mine]
    found = [(post, *answer) for post, answer in zip(posts, answers, strict=True)][:counted]
    return summarize(gather_object(found), oracle)


def summarize(answers: list[tuple[str, str, bool]], oracle: "Oracle | None") -> dict:
    """Return what (post, answer, finished) triples are like: by the oracle where it can read them.

    Without an oracle an answer is valid when it is not empty and the model ended it itself, and there is no
    adherence: ask a judge for that (`make eval`).
    """
    posts, texts, finished = (list(column) for column in zip(*answers, strict=True))
    if oracle is not None:
        return oracle.summarize(posts, texts)
    return {
        "adherence": None,
        "validity": sum(bool(text.strip()) and end for text, end in zip(texts, finished, strict=True)) / len(texts),
        "mean_length": sum(len(text.split()) for text in texts) / len(texts),
        "axes": {},
        "answers": len(texts),
    }


def read_completions(completions: list[str], oracle: "Oracle") -> dict[str, Any]:
    """Return what the oracle reads in a step's answers: adherence, validity and the share of each axis."""
    read = oracle.summarize([""] * len(completions), completions)
    return {"adherence": read["adherence"], "validity": read["validity"], "axes": read["axes"]}
