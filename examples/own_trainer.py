"""SDPO in your own training loop: `sdpo.method` needs only torch and no particular trainer.

    .venv/bin/python examples/own_trainer.py

A user who dislikes emojis reads 480 answers of the shipped tiny model (a minute on two cores). Replace the model, the
prompts and `react` with your own; the loop stays the same.
"""

import argparse
from random import Random
from statistics import fmean

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdpo.method.loss import Contexts, HindsightLoss
from sdpo.method.objective import Objective
from sdpo.method.teacher import Teacher
from sdpo.text.chat import decode, encode_prompt
from sdpo.text.hindsight import with_hindsight
from sdpo.text.prompts import SUMMARY_SYSTEM
from sdpo.tiny import MODEL_DIR, language
from sdpo.tiny.users import OracleUser

BATCH = 16


def sample(model, tokenizer, prompts: list[list[int]]) -> list[list[int]]:
    """Return a sampled completion for each prompt, as token ids with the end token."""
    length = max(map(len, prompts))
    ids_BL = torch.tensor([[tokenizer.pad_token_id] * (length - len(ids)) + ids for ids in prompts])
    mask_BL = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts])
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "max_new_tokens": 48}
    new_BT = model.generate(input_ids=ids_BL, attention_mask=mask_BL, **options)[:, length:].tolist()
    ends = [row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row) for row in new_BT]
    return [row[:end] for row, end in zip(new_BT, ends, strict=True)]


def main() -> None:
    """Train, and every five steps print the share of answers without an emoji."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    policy = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    rng, react = Random(arguments.seed), OracleUser({"emoji": False}, arguments.seed).react

    # A frozen teacher T is a copy of the current policy. Create it before anything wraps the policy. The signal is not
    # centred here: centring would raise other tokens for each one that a complaint lowers.
    loss_of = HindsightLoss(Teacher("frozen", policy), Objective(kind="token", centre=False), batch_size=BATCH)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1.5e-4, betas=(0.5, 0.999), weight_decay=0.0)
    without_emoji: list[bool] = []
    for step in range(arguments.steps):
        texts = [language.sample_post(rng).text for _ in range(BATCH)]
        messages = [
            [{"role": "system", "content": SUMMARY_SYSTEM}, {"role": "user", "content": text}] for text in texts
        ]
        prompts = [encode_prompt(tokenizer, row) for row in messages]
        completions = sample(policy, tokenizer, prompts)
        answers = [decode(tokenizer, ids) for ids in completions]
        follow_ups = [reply.text for reply in react(texts, answers)]

        hindsight = [
            encode_prompt(tokenizer, with_hindsight(row, follow_up))
            for row, follow_up in zip(messages, follow_ups, strict=True)
        ]
        contexts = [Contexts(x, x_o) for x, x_o in zip(prompts, hindsight, strict=True)]
        targets = loss_of.teacher_targets(contexts, completions)  # log T(y | x, o) per token, without gradient
        result = loss_of.loss(policy, contexts, completions, targets, weights_B=torch.ones(BATCH))
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        without_emoji += [answer.isascii() for answer in answers]
        if (step + 1) % 5 == 0:
            share = fmean(without_emoji[-5 * BATCH :])
            print(f"steps {step - 3:3} to {step + 1:3}: {share:.2f} of the answers have no emoji", flush=True)


if __name__ == "__main__":
    main()
