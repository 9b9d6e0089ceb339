"""Generating answers with a local model, in batches of prompts of similar length."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from sdpo import progress
from sdpo.text.chat import decode

if TYPE_CHECKING:
    from peft import PeftModel


@torch.no_grad()
def generate(
    model: "PreTrainedModel | PeftModel",
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 0.0,
    seed: int = 0,
    label: str = "answers",
) -> list[tuple[str, bool]]:
    """Return (text, finished) for each prompt, in order: greedy at temperature 0, otherwise sampled with `seed`.

    `finished` is False for an answer that was truncated at `max_new_tokens`: an answer ends with the tokenizer's end
    token, or with another one that the model declares. `label` says what is generated while it is. The caller's random
    state is not changed.
    """
    was_training = model.training
    model.eval()
    ends = end_tokens(model, tokenizer)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
    )
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: list[tuple[str, bool]] = [("", False)] * len(prompts)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), progress.task(label, len(order), "answers") as under:
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for index, ids in zip(chosen, generate_batch(model, [prompts[i] for i in chosen], config), strict=True):
                answers[index] = (decode(tokenizer, ids), bool(ids) and ids[-1] in ends)
            under.advance(len(chosen))
    model.train(was_training)
    return answers


@contextmanager
def counted_tokens(model: Any, most: int | None, label: str = "tokens of each") -> Iterator[None]:
    """Show how many of `most` new tokens each row has while the model generates: one for each time its head is used."""
    with progress.task(label, most) as under:
        hook = model.get_output_embeddings().register_forward_hook(lambda *_: under.advance())
        try:
            yield
        finally:
            hook.remove()


def end_tokens(model: "PreTrainedModel | PeftModel", tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of the tokens that end an answer: the tokenizer's first, then others that the model declares."""
    declared = getattr(model.generation_config, "eos_token_id", None)
    others = declared if isinstance(declared, list) else [] if declared is None else [declared]
    return list(dict.fromkeys([tokenizer.eos_token_id, *others]))


def generate_batch(
    model: Any, prompts: list[list[int]], config: GenerationConfig, processors: LogitsProcessorList | None = None
) -> list[list[int]]:
    """Return the new ids of each prompt, the end token included. Any: PreTrainedModel does not declare `generate`."""
    length = max(map(len, prompts))
    # Padded on the left: the first new token must follow directly after the prompt's last token.
    ids_BL = torch.tensor([[config.pad_token_id] * (length - len(ids)) + ids for ids in prompts], device=model.device)
    mask_BL = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device)
    with counted_tokens(model, config.max_new_tokens):
        new_BT = model.generate(
            input_ids=ids_BL, attention_mask=mask_BL, generation_config=config, logits_processor=processors
        )[:, length:]
    rows = []
    for ids in new_BT.tolist():
        end = next((index + 1 for index, token in enumerate(ids) if token in config.eos_token_id), len(ids))
        rows.append(ids[:end])
    return rows
