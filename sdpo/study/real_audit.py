"""What the audit says beforehand of a model, a style and settings, for comparison with what training then does.

The audit reads interactions, so each model first answers prompts of the training split, and the rule user of the style
replies. These rows are the same for all settings of a model and a style.
"""

import shlex
from pathlib import Path
from typing import Any

from sdpo.english.prompts import prompts
from sdpo.english.users import StyleUser
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import AuditSettings, settings_of
from sdpo.text.records import Interaction, interaction_lines

# Of a variant these are the settings that an audit has; the others are about training alone.
KNOWN = {name.upper() for name in settings_of(AuditSettings)}


def write_interactions(
    folder: Path, name: str, model: str, styles: list[str], count: int, tokens: int, bf16: bool
) -> None:
    """Write `name-STYLE.jsonl` for each style: `count` sampled answers, and the follow-ups of the rule user."""
    import torch

    from sdpo.models.generate import generate
    from sdpo.models.policy import load_model
    from sdpo.text.chat import encode_prompt

    tokenizer, policy = load_model(model, torch.bfloat16 if bf16 else torch.float32)
    policy.to("cuda" if torch.cuda.is_available() else "cpu").eval()  # type: ignore[arg-type]
    rows = prompts("train")
    chosen = [rows[index * len(rows) // count] for index in range(count)]
    contexts = [encode_prompt(tokenizer, [{"role": "user", "content": row.prompt}]) for row in chosen]
    answers = [text for text, _ in generate(policy, tokenizer, contexts, tokens, 32, temperature=1.0)]
    asked = [(row, answer) for row, answer in zip(chosen, answers, strict=True) if answer.strip()]
    for style in styles:
        follow_ups = StyleUser(style).react([row.prompt for row, _ in asked], [answer for _, answer in asked])
        interactions = [
            Interaction(
                row.id, row.id, 1, name, None, [{"role": "user", "content": row.prompt}], answer, follow_up.text
            )
            for (row, answer), follow_up in zip(asked, follow_ups, strict=True)
        ]
        RunDirectory(folder).write_text(f"{name}-{style}.jsonl", "".join(interaction_lines(interactions)))


def audit_values(model: str, style: str, variant: str, data: Path, out: Path) -> dict[str, Any]:
    """Return the settings of the audit of a model with the settings that `variant` names."""
    given = dict(word.partition("=")[::2] for word in shlex.split(variant))
    return {
        "MODEL": shlex.quote(model),
        "DATA": data,
        "JUDGE_MODEL": "rule",
        "STYLE": style,
        "OUTPUT_DIR": out,
        **{name: value for name, value in given.items() if name.upper() in KNOWN},
    }


def read_verdict(out: Path) -> dict[str, Any]:
    """Return the verdict that an audit wrote, with the figures that it rests on."""
    candidate = (RunDirectory(out).read_json("audit.json") or {})["candidates"][0]
    names = ("verdict", "cause", "reasons", "changes")
    preference = {name: value for name, value in candidate["figures"]["preference"].items() if name != "examples"}
    return {name: candidate[name] for name in names} | {"preference": preference}
