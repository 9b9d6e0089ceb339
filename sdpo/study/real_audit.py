"""What the audit says beforehand of a model, a style and settings, for comparison with what training then does.

The audit reads interactions (`real_interactions`), which are the same for all settings of a model and a style.
"""

import shlex
from pathlib import Path
from typing import Any

from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import AuditSettings, settings_of

# Of a variant these are the settings that an audit has; the others are about training alone.
KNOWN = {name.upper() for name in settings_of(AuditSettings)}


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
