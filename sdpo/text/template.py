"""What a chat template does with messages, found out by rendering a few of them.

Three differences between templates matter here. Some take no system message, or only turns that alternate strictly.
Some end an answer with another token than the one that the tokenizer calls its end token. Some open a thought in the
assistant's turn, whatever `enable_thinking` says.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from sdpo.text.prompts import Message

# The marks around a thought, as models of several families write them.
THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
# What a template raises for messages that it does not take, or that its author did not think of.
TEMPLATE_ERRORS = (TemplateError, TypeError, KeyError, IndexError, AttributeError, ValueError)

# Texts of messages that no template contains, and that trimming leaves as they are.
_SYSTEM, _QUESTION, _ANSWER, _NEXT = "Qsystemq", "Qquestionq", "Qanswerq", "Qnextq"
_SYSTEM_MESSAGE = {"role": "system", "content": _SYSTEM}
_TURNS = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
_NEXT_TURN = {"role": "user", "content": _NEXT}


@dataclass(frozen=True)
class TemplateFacts:
    """What a tokenizer's chat template does.

    takes_system: whether a system message is shown; otherwise its text belongs into the user's turn.
    end: the control token that ends the assistant's turn, None if the template does not end it with one.
    closing: what closes the thought that the template opens before an answer, empty if it opens none.
    fault: why the template cannot be used at all, empty if it can.
    """

    takes_system: bool
    end: str | None
    closing: str
    fault: str = ""


def template_facts(tokenizer: PreTrainedTokenizerBase) -> TemplateFacts:
    """Return what the tokenizer's chat template does."""
    return _facts(tokenizer, str(tokenizer.chat_template))


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer_next: bool = True) -> str:
    """Return the messages as text, with `answer_next` up to where the assistant's answer begins, thinking disabled.

    Raises one of TEMPLATE_ERRORS for messages that the template does not take.
    """
    text: Any = tokenizer.apply_chat_template(  # a string, because of tokenize=False
        list(messages), tokenize=False, add_generation_prompt=answer_next, enable_thinking=False
    )
    return text


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """Return a prompt as text up to where the answer itself begins: no system message that is not taken, no thought."""
    facts = template_facts(tokenizer)
    return render(tokenizer, messages if facts.takes_system else fold_system(messages)) + facts.closing


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the text of each system message at the beginning of the user's next turn."""
    folded: list[Message] = []
    texts: list[str] = []
    for message in messages:
        if message["role"] == "system":
            texts.append(message["content"])
        elif message["role"] == "user" and texts:
            folded.append({**message, "content": "\n\n".join([*texts, message["content"]])})
            texts = []
        else:
            folded.append(message)
    return folded


def control_strings(tokenizer: PreTrainedTokenizerBase) -> re.Pattern:
    """Return a pattern that matches the tokenizer's added and special tokens, the longest first."""
    names = {*map(str, tokenizer.get_added_vocab()), *map(str, tokenizer.all_special_tokens)}
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")


@lru_cache(maxsize=8)
def _facts(tokenizer: PreTrainedTokenizerBase, template: str) -> TemplateFacts:
    takes_system = _takes_system(tokenizer)
    conversation = [_SYSTEM_MESSAGE, *_TURNS, _NEXT_TURN]
    try:
        text = render(tokenizer, conversation if takes_system else fold_system(conversation))
        missing = [mark for mark in (_SYSTEM, _QUESTION, _ANSWER, _NEXT) if mark not in text]
        fault = "it leaves out text of the messages" if missing else ""
        return TemplateFacts(takes_system, _end_of_turn(tokenizer), _closing(tokenizer), fault)
    except TEMPLATE_ERRORS as error:
        return TemplateFacts(takes_system, None, "", f"it fails on a conversation of two turns ({_words(error)})")


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a system message before a user's is shown, also in a longer conversation."""
    try:
        return all(
            _SYSTEM in render(tokenizer, [_SYSTEM_MESSAGE, *turns])
            for turns in ([_NEXT_TURN], [*_TURNS, _NEXT_TURN], [*_TURNS, *_TURNS, _NEXT_TURN])
        )
    except TEMPLATE_ERRORS:
        return False


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str | None:
    control = control_strings(tokenizer)
    after = _after(render(tokenizer, _TURNS, answer_next=False), _ANSWER)
    if found := control.match(after.lstrip()):
        return found[0]
    # Some templates end an answer only where another turn follows. A token that opens the user's turn is no end.
    longer = render(tokenizer, [*_TURNS, _NEXT_TURN])
    found = control.match(_after(longer, _ANSWER).lstrip())
    opening = control.findall(longer.partition(_QUESTION)[0])[-1:]
    return found[0] if found and [found[0]] != opening else None


def _closing(tokenizer: PreTrainedTokenizerBase) -> str:
    start = _after(render(tokenizer, [_NEXT_TURN]), _NEXT)
    for opening, closing in THOUGHTS:
        if start.rfind(opening) > start.rfind(closing):
            return ("\n" if start.endswith("\n") else "\n\n") + f"{closing}\n\n"
    return ""


def _after(text: str, mark: str) -> str:
    """Return what follows the last occurrence of the mark, empty if there is none."""
    _, found, after = text.rpartition(mark)
    return after if found else ""
