"""Completion of the `sdpo` command in a shell: a static script, generated from the declarations of the settings.

It completes the jobs, their flags, the names of NAME=value words, and the values of settings that are one of several,
yes or no, or a path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdpo.settings import CommonSettings, Setting, flag, settings_of

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Command:
    """A job as the shell sees it."""

    name: str
    summary: str
    kind: type[CommonSettings]

    @property
    def settings(self) -> list[Setting]:
        """The settings that can be given on the command line."""
        return [declared for declared in settings_of(self.kind).values() if not declared.secret]


def script(shell: str, commands: Sequence[Command]) -> str:
    """Return the completion script for one of SHELLS."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _by_kind(commands: Sequence[Command]) -> list[tuple[list[str], list[Setting]]]:
    """Return the names of the commands that share a settings class, with its settings."""
    kinds: dict[type[CommonSettings], list[Command]] = {}
    for command in commands:
        kinds.setdefault(command.kind, []).append(command)
    return [([command.name for command in same], same[0].settings) for same in kinds.values()]


def _values(declared: Setting) -> str:
    """Return the values to choose from, separated by spaces; empty if any text or number will do."""
    return " ".join(declared.choices) if declared.choices else "1 0" if declared.kind is bool else ""


def _flags(settings: Sequence[Setting]) -> list[str]:
    return [flag(name) for declared in settings for name in declared.names]


# bash

_BASH = """# bash completion of sdpo: put  source <(sdpo completion bash)  into ~/.bashrc
_sdpo() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} flags='' words='' values='' path=''
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W '@COMMANDS@ completion --help --version' -- "$word"))
    return
  fi
  # bash splits NAME=value into three words.
  local assigned=''
  if [[ $word == '=' ]]; then
    word='' assigned=1
  elif [[ $before == '=' ]]; then
    before=${COMP_WORDS[COMP_CWORD-2]} assigned=1
  fi
  if [[ $assigned && $before != --* ]]; then
    before=--$(printf %s "$before" | tr 'A-Z_' 'a-z-')
  fi
  case ${COMP_WORDS[1]} in
    completion) COMPREPLY=($(compgen -W '@SHELLS@' -- "$word")); return ;;
@JOBS@
  esac
  if [[ $values ]]; then
    COMPREPLY=($(compgen -W "$values" -- "$word"))
    # A flag that is on or off needs no value, so that the next word may be a flag.
    [[ $values != '1 0' || $assigned || ( $word != -* && $word != [A-Z]* ) ]] && return
  elif [[ $path ]]; then
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$word"))
    return
  elif [[ $assigned || ( $before == --* && " $flags " == *" $before "* ) ]]; then
    return
  fi
  if [[ $word == [A-Z]* ]]; then
    compopt -o nospace 2>/dev/null
    COMPREPLY=($(compgen -S = -W "$words" -- "$word"))
  else
    COMPREPLY=($(compgen -W "$flags --help" -- "$word"))
  fi
}
complete -F _sdpo sdpo
"""


def _bash(commands: Sequence[Command]) -> str:
    cases = []
    for names, settings in _by_kind(commands):
        words = [name.upper() for declared in settings for name in declared.names]
        lines = [
            f"    {'|'.join(names)})",
            f"      flags='{' '.join(_flags(settings))}'",
            f"      words='{' '.join(words)}'",
        ]
        by_value: dict[str, list[str]] = {}
        for declared in settings:
            answer = f"values='{values}'" if (values := _values(declared)) else ""
            answer = "path=1" if declared.kind is Path else answer
            if answer:
                by_value.setdefault(answer, []).extend(map(flag, declared.names))
        lines.append("      case $before in")
        lines += [f"        {'|'.join(flags)}) {answer} ;;" for answer, flags in by_value.items()]
        cases.append("\n".join([*lines, "      esac ;;"]))
    text = _BASH.replace("@COMMANDS@", " ".join(command.name for command in commands))
    return text.replace("@SHELLS@", " ".join(SHELLS)).replace("@JOBS@", "\n".join(cases))


# zsh

_ZSH = """#compdef sdpo
# zsh completion of sdpo: put  source <(sdpo completion zsh)  into ~/.zshrc, after compinit
_sdpo() {
  local -a commands
  commands=(
@COMMANDS@
    'completion:print the completion for a shell'
  )
  if (( CURRENT == 2 )); then
    _describe -t commands job commands
    return
  fi
  local job=$words[2]
  shift words
  (( CURRENT-- ))
  case $job in
    completion) _arguments '1:shell:(@SHELLS@)' ;;
@JOBS@
  esac
}
compdef _sdpo sdpo
"""


def _zsh(commands: Sequence[Command]) -> str:
    cases = []
    for names, settings in _by_kind(commands):
        specs = [_zsh_spec(flag(name), declared) for declared in settings for name in declared.names]
        cases.append(f"    {'|'.join(names)}) _arguments \\\n      " + " \\\n      ".join(specs) + " ;;")
    listed = [f"    {_quoted(f'{command.name}:{command.summary}')}" for command in commands]
    text = _ZSH.replace("@COMMANDS@", "\n".join(listed))
    return text.replace("@SHELLS@", " ".join(SHELLS)).replace("@JOBS@", "\n".join(cases))


def _zsh_spec(name: str, declared: Setting) -> str:
    """Return what zsh's _arguments takes for a flag: its help, and after a colon its values."""
    help = "".join(f"\\{character}" if character in "[]:\\" else character for character in declared.help)
    action = f"({_values(declared)})" if _values(declared) else "_files" if declared.kind is Path else ""
    optional = ":" if declared.kind is bool else ""  # a second colon: the value may be left out
    return _quoted(f"{name}=[{help}]:{optional}{declared.name.upper()}:{action}")


# fish


def _fish(commands: Sequence[Command]) -> str:
    lines = [
        "# fish completion of sdpo: sdpo completion fish > ~/.config/fish/completions/sdpo.fish",
        "complete -c sdpo -f",
    ]
    first = "-n __fish_use_subcommand"
    lines += [f"complete -c sdpo {first} -a {command.name} -d {_quoted(command.summary)}" for command in commands]
    lines.append(f"complete -c sdpo {first} -a completion -d 'print the completion for a shell'")
    lines.append(f"complete -c sdpo -n '__fish_seen_subcommand_from completion' -a '{' '.join(SHELLS)}'")
    for names, settings in _by_kind(commands):
        seen = f"-n '__fish_seen_subcommand_from {' '.join(names)}'"
        for declared in settings:
            values = _values(declared)
            kind = "-r -F" if declared.kind is Path else "" if declared.kind is bool else "-x"
            choices = f" -a '{values}'" if declared.choices else ""
            for name in declared.names:
                words = f"complete -c sdpo {seen} -l {flag(name).removeprefix('--')} {kind}".rstrip()
                lines.append(f"{words}{choices} -d {_quoted(declared.help, fish=True)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str, fish: bool = False) -> str:
    """Return the text in single quotes."""
    if fish:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return "'" + text.replace("'", "'\\''") + "'"
