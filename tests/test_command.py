"""The `sdpo` command: its help, its jobs, what it refuses, and the completion of a shell."""

import shutil
import subprocess
import sys

import pytest

import jobs.__main__ as sdpo_command
from sdpo import settings
from sdpo.settings.completion import SHELLS, Command, script
from tests.commands import JOBS, ROOT, clean_environment


def sdpo(*arguments, cwd=ROOT, **environment):
    words = [sys.executable, "-m", "jobs", *map(str, arguments)]
    return subprocess.run(words, cwd=cwd, env=clean_environment(**environment), capture_output=True, text=True)


def test_every_job_is_in_a_group_once_and_in_the_help():
    grouped = [name for group in sdpo_command.GROUPS.values() for name in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(sdpo_command.names()) == {job.name for job in JOBS.values()} | {"plan"}
    help = sdpo_command._help()
    for title in sdpo_command.GROUPS:
        assert f"\n{title}:\n" in help
    for job in JOBS.values():
        assert f"  {job.name} " in help and job.summary in help


def test_the_help_is_cheap(tmp_path):
    probe = (
        "import sys, time; before = time.process_time()\n"
        "from jobs.__main__ import main; main(['--help'])\n"
        "print('HEAVY', *[name for name in ('torch', 'transformers', 'trl', 'numpy') if name in sys.modules])\n"
        "print(time.process_time() - before)"
    )
    seconds = []
    for _ in range(2):  # the first may compile the modules
        done = subprocess.run(
            [sys.executable, "-c", probe], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout.splitlines()[-2] == "HEAVY", done.stdout[-200:] + done.stderr
        seconds.append(float(done.stdout.splitlines()[-1]))
    assert min(seconds) < 1


def test_without_an_argument_it_is_the_help_and_a_version_can_be_asked_for(capsys):
    assert sdpo_command.main([]) == 0
    assert capsys.readouterr().out == sdpo_command._help() + "\n"
    assert sdpo_command.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sdpo ")


def test_an_unknown_job_is_answered_with_the_command_that_was_typed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/jobs/__main__.py"])
    assert sdpo_command.main(["trian-offline"]) == 2
    assert "Did you mean train-offline? python -m jobs --help lists all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian-offline"], ["'trian-offline'", "Did you mean train-offline?"]),
        (["train_online_tldr"], ["Did you mean train-online-tldr?"]),
        (["--lr", "1"], ["'--lr'", "sdpo --help"]),
        (["completion"], ["bash, zsh, fish"]),
        (["completion", "tcsh"], ["'tcsh'", "bash, zsh, fish"]),
        (["train-offline", "--lrr", "1"], ["--lrr", "Did you mean --lr?"]),
        (["train-offline", "LRR=1"], ["LRR", "Did you mean LR?"]),
        (["train-offline", "lr=1"], ["'lr'", "NAME=value"]),
        (["train-offline", "ANTHROPIC_API_KEY=s3cret"], ["environment or .env only"]),
        (["train-offline", "CUDA_VISIBLE_DEVICES=0"], ["another program", "CUDA_VISIBLE_DEVICES=... train-offline"]),
    ],
)
def test_what_is_wrong_is_one_line_with_the_nearest_name(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/sdpo"])
    for name in {*settings.known_names()}:
        monkeypatch.delenv(name.upper(), raising=False)
    assert sdpo_command.main(arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and error.startswith("error: ") and "s3cret" not in error
    for word in words:
        assert word in error


@pytest.mark.slow
def test_settings_are_flags_and_words_and_a_value_may_look_like_a_word(tmp_path):
    given = ["--lr", "1e-6", "GPUS=2", "--tiny", "BS=3", "--run-id=x", "--lora-targets", "LR=5", "ADAPTER=lora"]
    done = sdpo("train-online-tldr", *given, "DRY_RUN=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.endswith(" flag")}
    shown = {
        "ADAPTER": "lora",
        "LR": "1e-6",
        "WORLD_SIZE": "2",
        "TINY": "1",
        "BS": "3",
        "RUN_ID": "x",
        "LORA_TARGETS": "LR=5",
    }
    assert {name: rows[name][0] for name in shown} == shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("style", "expected"), [("", "no_emojis"), ("casual", "casual")])
def test_the_demo_is_the_tiny_tldr_job(style, expected, tmp_path):
    (tmp_path / ".env").write_text("TINY=0\nSTYLE=poetic\n")
    done = sdpo("demo", "DRY_RUN=1", cwd=tmp_path, STYLE=style)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("train-online-tldr: ")
    rows = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if len(line.split()) > 1}
    assert rows["TINY"] == "1" and rows["STYLE"] == expected
    run, take = done.stdout.split("would run:")[1].split("would take:")
    assert "-m jobs.train_online_tldr" in run and "memory of a process" in take


# Completion

TRY = """
source {script}
COMP_WORDS=({words}) COMP_CWORD=$(({number} - 1))
_sdpo
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    (folder / "interactions.jsonl").write_text("")
    done = sdpo("completion", "bash")
    assert done.returncode == 0, done.stderr
    (folder / "sdpo.bash").write_text(done.stdout)
    return folder / "sdpo.bash"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["audi"], ["audit"]),
        (["train-online-tldr", "--teach"], ["--teacher"]),
        (["train-online-tldr", "--teacher", ""], ["live", "frozen", "ema", "gated"]),
        (["train-online-tldr", "--objective", ""], ["token", "full", "top_k"]),
        (["train-offline", "--objective", ""], ["token", "full", "top_k", "sft"]),
        (["train-offline", "TEACHER", "=", "fro"], ["frozen"]),
        (["train-offline", "TEACHER", "="], ["live", "frozen", "ema", "gated"]),
        (["train-offline", "--teacher", "=", "fro"], ["frozen"]),
        (["train-offline", "LORA_R"], ["LORA_RANK="]),
        (["train-offline", "--tiny", "--rehearsal-j"], ["--rehearsal-jsonl"]),
        (["train-offline", "--lr", ""], []),
        (["train-offline", "--model-name"], ["--model-name-or-path"]),
        (["train-offline", "--train-jsonl", "inter"], ["interactions.jsonl"]),
        (["completion", ""], list(SHELLS)),
    ],
)
def test_bash_completes(words, expected, bash_script):
    quoted = " ".join(f"'{word}'" for word in ["sdpo", *words])
    text = TRY.format(script=bash_script, words=quoted, number=len(words) + 1)
    done = subprocess.run(["bash", "-c", text], cwd=bash_script.parent, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.split() == expected


@pytest.mark.slow
def test_bash_offers_every_flag_and_no_secret(bash_script):
    offered = set(bash_script.read_text().replace("'", " ").split())
    for job in JOBS.values():
        for declared in settings.settings_of(job.settings).values():
            for name in declared.names:
                assert (settings.flag(name) in offered) != declared.secret


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_job_and_flag_and_can_read_it(shell, tmp_path):
    commands = [Command(job.name, job.summary, job.settings) for job in JOBS.values()]
    text = script(shell, commands)
    for command in commands:
        assert command.name in text and command.summary.replace("'", "'\\''") in text
        for declared in command.settings:
            name = settings.flag(declared.name)
            assert (f"'{name}=[" if shell == "zsh" else f" -l {name.removeprefix('--')} ") in text
    if program := shutil.which(shell):
        (tmp_path / "script").write_text(text)
        check = subprocess.run([program, "-n", tmp_path / "script"], capture_output=True, text=True)
        assert check.returncode == 0, check.stderr
