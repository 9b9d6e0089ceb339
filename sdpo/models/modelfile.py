"""A Modelfile for Ollama, whose template shows a conversation as the model's own chat template does.

Ollama's templates are Go templates. What a chat template writes around each message is found by rendering one
conversation; what it does beyond that (tools, thoughts) is left out.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sdpo.text.prompts import Message
from sdpo.text.template import render_prompt, template_facts

# Texts that no template contains, and that trimming leaves as they are.
_SYSTEM, _QUESTION, _ANSWER, _NEXT = "Qsystemq", "Qquestionq", "Qanswerq", "Qnextq"


@dataclass(frozen=True)
class Turns:
    """What a chat template writes before and after the text of each kind of message, and before the answer.

    `system` is None if the template takes no system message. `default_system` is the text that the template itself adds
    where no system message is given.
    """

    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str
    default_system: str = ""


def turns_of(tokenizer: PreTrainedTokenizerBase) -> Turns:
    """Return the turns of the tokenizer's chat template."""
    question: Message = {"role": "user", "content": _QUESTION}
    later: list[Message] = [{"role": "assistant", "content": _ANSWER}, {"role": "user", "content": _NEXT}]
    text = _without_bos(tokenizer, render_prompt(tokenizer, [question, *later]))
    start, rest = text.split(_QUESTION)
    after_question, rest = rest.split(_ANSWER)
    after_answer, answer = rest.split(_NEXT)
    # The turn of the user begins alike after an answer and, where it is first, after whatever comes before it.
    before_user = _cut_at_end(tokenizer, _common_suffix(start, after_answer))
    if not template_facts(tokenizer).takes_system:
        end = after_answer.removesuffix(before_user)
        return Turns(None, (before_user, ""), (after_question, end), answer)
    shown = render_prompt(tokenizer, [{"role": "system", "content": _SYSTEM}, question])
    before_system, between = _without_bos(tokenizer, shown).partition(_QUESTION)[0].split(_SYSTEM)
    before_user = _common_suffix(before_user, between)
    after_system, default = between.removesuffix(before_user), start.removesuffix(before_user)
    if not (default.startswith(before_system) and default.endswith(after_system)):
        default = ""
    return Turns(
        (before_system, after_system),
        (before_user, ""),
        (after_question, after_answer.removesuffix(before_user)),
        answer,
        default.removeprefix(before_system).removesuffix(after_system),
    )


def modelfile(tokenizer: PreTrainedTokenizerBase, weights: str) -> str:
    """Return the Modelfile of the model whose weights are in the file `weights` beside it."""
    turns = turns_of(tokenizer)
    branches = [("user", turns.user), ("assistant", turns.assistant)]
    if turns.system is not None:
        branches.insert(0, ("system", turns.system))
    parts = []
    for number, (role, (before, after)) in enumerate(branches):
        condition = "else if" if number else "if"
        parts.append(f'{{{{ {condition} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}')
    template = "{{ range .Messages }}" + "".join(parts) + "{{ end }}{{ end }}" + turns.answer
    lines = [f"FROM ./{weights}", f'TEMPLATE """{template}"""']
    if turns.default_system:
        lines.append(f'SYSTEM """{turns.default_system}"""')
    return "\n".join([*lines, f'PARAMETER stop "{tokenizer.eos_token}"']) + "\n"


def _without_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the text without the token that Ollama itself puts first."""
    return text.removeprefix(tokenizer.bos_token) if isinstance(tokenizer.bos_token, str) else text


def _cut_at_end(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return what follows the last end token, and the line break after it: the end of the turn before is no part."""
    _, found, after = text.rpartition(str(tokenizer.eos_token))
    return after.removeprefix("\n") if found else text


def _common_suffix(first: str, second: str) -> str:
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return first[len(first) - length :]
