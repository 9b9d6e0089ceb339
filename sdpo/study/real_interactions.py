"""A log of the study on real models: a model's own answers, and the rule user's replies to them."""

from pathlib import Path

from sdpo.english.prompts import prompts
from sdpo.english.users import StyleUser
from sdpo.errors import SettingError
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.records import Interaction, interaction_lines


def write_interactions(
    folder: Path,
    name: str,
    model: str,
    styles: list[str],
    count: int,
    tokens: int,
    bf16: bool,
    split: str = "train",
    seed: int = 0,
) -> None:
    """Write `name-STYLE.jsonl` for each style: sampled answers to `count` prompts, and the follow-ups of the rule user.

    Raises SettingError if the split has fewer prompts.
    """
    import torch

    from sdpo.models.generate import generate
    from sdpo.models.policy import load_model
    from sdpo.text.chat import encode_prompt

    tokenizer, policy = load_model(model, torch.bfloat16 if bf16 else torch.float32)
    policy.to("cuda" if torch.cuda.is_available() else "cpu").eval()  # type: ignore[arg-type]
    rows = prompts(split)
    if count > len(rows):
        raise SettingError(f"INTERACTIONS={count}, but there are {len(rows)} English prompts of {split}. Lower it.")
    chosen = [rows[index * len(rows) // count] for index in range(count)]
    contexts = [encode_prompt(tokenizer, [{"role": "user", "content": row.prompt}]) for row in chosen]
    answers = generate(policy, tokenizer, contexts, tokens, 32, temperature=1.0, seed=seed)
    asked = [(row, answer, finished) for row, (answer, finished) in zip(chosen, answers, strict=True) if answer.strip()]
    for style in styles:
        follow_ups = StyleUser(style, seed).react(
            [row.prompt for row, _, _ in asked], [answer for _, answer, _ in asked]
        )
        interactions = [
            Interaction(
                row.id,
                row.id,
                1,
                name,
                None,
                [{"role": "user", "content": row.prompt}],
                answer,
                follow_up.text,
                finished=finished,
            )
            for (row, answer, finished), follow_up in zip(asked, follow_ups, strict=True)
        ]
        RunDirectory(folder).write_text(f"{name}-{style}.jsonl", "".join(interaction_lines(interactions)))
