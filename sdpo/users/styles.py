"""The styles that users may want: the shipped personas, and those of a STYLE_FILE, which may bring a rule."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdpo.errors import SettingError, command, nearest, one_line
from sdpo.text.prompts import PERSONAS

FILE = "styles.json"  # of a run directory: the styles of its STYLE_FILE, as they were when the run began
PATTERNS = ("matches", "lacks")  # regular expressions: each is found in an answer that fits, or none is
LIMITS = ("least_words", "most_words", "least_sentences", "most_sentences")
_KEYS = ("persona", "rule", "complaints", "praise")
_EXAMPLE = '{"brief": "You like it brief."}'


@dataclass(frozen=True)
class OwnStyle:
    """A style of a STYLE_FILE.

    `rule` is what an answer that fits has: patterns (`PATTERNS`) and limits (`LIMITS`) by name; empty if only a model
    can tell. `complaints` and `praise` are what a user without a model writes; without praise it uses the shipped one.
    """

    persona: str
    rule: Mapping[str, Any] = field(default_factory=dict)
    complaints: tuple[str, ...] = ()
    praise: tuple[str, ...] = ()


def own_styles(style_file: Path | None) -> dict[str, OwnStyle]:
    """Return the styles of a STYLE_FILE by name, none without one. Raises SettingError that names file, style and key.

    A style is its persona, or an object with `persona`, `rule`, `complaints` and `praise`.
    """
    if style_file is None:
        return {}
    try:
        added = json.loads(Path(style_file).read_text("utf-8-sig"))
    except OSError as error:
        raise SettingError(f"STYLE_FILE {style_file} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        hint = f"It has to be one object such as {_EXAMPLE}."
        if "escape" in str(error):
            hint = "JSON writes a backslash twice."
        if "Extra data" in str(error):
            raise SettingError(
                f"STYLE_FILE {style_file} has several lines of JSON, as conversations do. {hint}"
            ) from None
        raise SettingError(f"STYLE_FILE {style_file} is not JSON: {one_line(error)}. {hint}") from None
    rows = added if isinstance(added, list) else [added]
    if any(isinstance(row, dict) and "messages" in row for row in rows):
        prepare = command(f"prep-logs INPUT={shlex.quote(str(style_file))}")
        raise SettingError(
            f"STYLE_FILE {style_file} is a file of conversations. Prepare these with {prepare}; styles are one object "
            f"such as {_EXAMPLE}."
        )
    if not isinstance(added, dict):
        raise SettingError(f"STYLE_FILE {style_file} must hold a JSON object such as {_EXAMPLE}.")
    styles = {}
    for name, given in added.items():
        if not name.strip():
            raise SettingError(f"STYLE_FILE {style_file} has a style without a name.")
        try:
            styles[name] = _style(given if isinstance(given, dict) else {"persona": given})
        except ValueError as error:
            raise SettingError(f"STYLE_FILE {style_file}: the style {name}: {error}") from None
    return styles


def as_json(style: OwnStyle) -> dict[str, Any]:
    """Return a style as a STYLE_FILE has it."""
    values = {
        "persona": style.persona,
        "rule": dict(style.rule),
        "complaints": style.complaints,
        "praise": style.praise,
    }
    return {name: value for name, value in values.items() if value}


def personas(style_file: Path | None = None) -> dict[str, str]:
    """Return style -> persona: the shipped personas and those of the file, which replace shipped ones of the same name.

    Raises SettingError as `own_styles` does.
    """
    return PERSONAS | {name: style.persona for name, style in own_styles(style_file).items()}


def persona_of(style: str, style_file: Path | None = None) -> str:
    """Return the persona of a style. Raises SettingError if there is none of this name."""
    known = personas(style_file)
    if style not in known:
        raise SettingError(
            f"STYLE {style} is unknown.{nearest(style, known)} "
            f"The styles are {', '.join(known)}; STYLE_FILE adds your own."
        )
    return known[style]


def _style(given: Mapping[str, Any]) -> OwnStyle:
    """Return the style. Raises ValueError with a sentence."""
    _check_names(given, _KEYS)
    persona = given.get("persona")
    if not isinstance(persona, str) or not persona.strip():
        raise ValueError("the persona must be a non-empty string.")
    rule = _rule(given["rule"]) if "rule" in given else {}
    complaints, praise = _texts(given, "complaints"), _texts(given, "praise")
    if rule and not complaints:
        raise ValueError('with a rule it needs complaints, the messages about answers that break it: ["Shorter."].')
    return OwnStyle(persona.strip(), rule, complaints, praise)


def _rule(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict) or not given:
        raise ValueError('the rule must be an object such as {"most_words": 60}.')
    _check_names(given, (*PATTERNS, *LIMITS))
    for name in LIMITS:
        value = given.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1.")
    for kind in ("words", "sentences"):
        if given.get(f"least_{kind}", 1) > given.get(f"most_{kind}", float("inf")):
            raise ValueError(f"least_{kind} is more than most_{kind}, so no answer can fit.")
    patterns = {name: _texts(given, name) for name in PATTERNS if name in given}
    for name, texts in patterns.items():
        for text in texts:
            try:
                re.compile(text)
            except re.error as error:
                raise ValueError(f"{name}: {text} is no regular expression: {error}.") from None
    return {**given, **patterns}


def _texts(given: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = given.get(name, ())
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else (None,)
    if not all(isinstance(text, str) and text.strip() for text in texts) or (name in given and not texts):
        raise ValueError(f"{name} must be one or more non-empty strings.")
    return texts


def _check_names(given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{name} is unknown.{nearest(name, known)} There are {', '.join(known)}.")
