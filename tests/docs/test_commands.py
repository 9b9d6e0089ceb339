"""Every command of README and documentation: a block is checked here, or says why not, or names the test that runs it.

The blocks run in a shell, in a folder with the data and runs that they name, with an interpreter that only records its
arguments. The jobs that it would have started are then run with DRY_RUN=1 and TINY=1: that checks every name and value
of a setting. What a block would do is not done; where a test does it, the block says so: `<!-- run by: tests/... -->`.
"""

import json
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from sdpo.gateway.store import Store
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import redacted
from sdpo.settings.resolve import resolve
from sdpo.text.records import interaction_lines
from sdpo.tiny import WORLD_DIR, logged
from tests.commands import JOBS, ROOT, clean_environment
from tests.docs.pages import Block, blocks, pages
from tests.servers import Answer, FakeServer

BLOCKS = [block for page in pages() for block in blocks(page)]
# An indented block may be anything; its lines that call make are commands.
FENCED = [block for block in BLOCKS if block.fenced]
CHECKED = [block for block in BLOCKS if block.mark != "not run"]
COMMAND = re.compile(r"(^|[;&] *)(DOCKER=1 )?(make|python|\.venv/bin/python|pip) ")

PROGRAMS = ("bash", "cat", "cp", "echo", "env", "make", "mkdir", "mktemp", "printf", "sed", "sh", "tr")
RECORDER = """\
#!/bin/sh
folder=$(mktemp -d "$RECORDS/XXXXXX")
env -0 > "$folder/environment"
printf '%s\\0' "$@" > "$folder/arguments"
"""
JOB_NAMES = {job.name for job in JOBS.values()} | {"demo"}
VARIABLES = {
    "TINY": "1", "DRY_RUN": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "ANTHROPIC_API_KEY": "none",
    "PYTHONPATH": "",
}  # fmt: skip


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Return a folder with the Makefile, and with the data, runs and programs that the commands name."""
    folder = tmp_path_factory.mktemp("commands")
    for name in ("Makefile", "jobs", "sdpo", "docker", "examples", "docs", "benchmarks", ".env.example"):
        (folder / name).symlink_to(ROOT / name)
    for path in (
        folder / "bin",
        folder / ".venv" / "bin",
        folder / "my" / "tasks",
        folder / "data" / "english_prompts",
    ):
        path.mkdir(parents=True)
    for name in filter(shutil.which, PROGRAMS):
        (folder / "bin" / name).symlink_to(shutil.which(name))
    for path in (folder / "bin" / "python", folder / "bin" / "pip", folder / ".venv" / "bin" / "python"):
        path.write_text(RECORDER)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    for name in ("english_prompts", "tldr_prompts_unique", "helpsteer2_prompts"):
        (folder / "data" / name).mkdir(exist_ok=True)
        for part in ("train", "validation"):
            shutil.copy(WORLD_DIR / "data" / f"{part}.jsonl", folder / "data" / name)
    logs = "".join(interaction_lines(logged.interactions(20, seed=5)))
    for path in ("data/logs/logs_interactions.jsonl", "data/conversations/conversations.jsonl"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(logs, "utf-8")
    roles = ("user", "assistant", "user")
    conversation = [{"role": role, "content": f"the {role} says hello"} for role in roles]
    (folder / "conversations.json").write_text(json.dumps([{"messages": conversation}]))
    (folder / "styles.json").write_text('{"pirate": "You love pirates.", "metric": "You want metric units."}')
    for name in ("runs/sdpo-tldr-runs/my-run", "runs/a", "runs/b", "runs/c"):
        write_run(folder / name, "jobs.train_online_tldr", STYLE="no_emojis")
    own = {"MODEL": "Qwen/Qwen2.5-0.5B-Instruct", "RECIPE": "recommended", "RUN_ID": "first", "HOLDOUT": "0.1"}
    write_run(folder / "runs/sdpo-offline-runs/first", "jobs.train_offline", **own)
    released = {"verdict": "promote", "checkpoint": 20, "sentence": "promote: checkpoint-20", "releases": []}
    (folder / "runs/sdpo-offline-runs/first/eval").mkdir()
    (folder / "runs/sdpo-offline-runs/first/eval/release.json").write_text(json.dumps(released))
    tried = {"TRAIN_JSONL": "data/logs/logs_interactions.jsonl", "RUN_ID": "tiny", "GUARD": "off", "BS": "4"}
    write_run(folder / "runs/sdpo-offline-runs/tiny", "jobs.train_offline", **tried)
    for name in ("store", "tiny-store"):
        Store(f"sqlite:///{folder}/runs/{name}.sqlite").close()
    return folder


def write_run(path: Path, module: str, **environment) -> None:
    """Write the directory of a run with two checkpoints that are only marked as complete."""
    path.mkdir(parents=True)
    job = JOBS[module]
    settings = resolve(
        job.settings, ["--tiny"], job=job.name, defaults=job.defaults, tiny=job.tiny, environment=environment
    )
    started = {"job": job.name, "system_prompt": "", "prompt_suffix": "", "settings": redacted(settings)}
    directory = RunDirectory(path)
    directory.write_json("run.json", started | {"persona": f"You like {settings.style}."})
    for step in (10, 20):
        (path / f"checkpoint-{step}").mkdir()
        directory.mark_complete(step)


def checked_text(block: Block) -> str:
    """Return the commands of a block that are checked.

    Of a fenced block without a mark that is all of it. Of others it is what make does with jobs, unless a value is
    left for the reader to fill in.
    """
    if block.fenced and not block.mark:
        return block.text
    lines = block.text.replace("\\\n", " ").splitlines()
    exports = [line for line in lines if line.startswith("export ")]
    calls = [re.sub(r" # .*|; make .*$", "", line) for line in lines if "..." not in line and "…" not in line]
    named = [line for line in calls if (found := re.match(r"make ([\w-]+)", line)) and found[1] in JOB_NAMES]
    return "\n".join([*exports, *named])


@dataclass
class Call:
    """A call of the interpreter by a block. `code` and `output` are those of the job, if it is one."""

    block: str
    environment: dict[str, str]
    arguments: list[str]
    code: int | None = None
    output: str = ""

    @property
    def is_job(self) -> bool:
        return self.code is None and self.arguments[:1] == ["-m"] and self.arguments[1] in JOBS


@pytest.fixture(scope="session")
def calls(folder) -> list[Call]:
    """Return the calls of all blocks, with what came of the jobs."""
    with FakeServer(lambda body, number: Answer(), gets={"/health": Answer()}) as server:
        calls = [call for block in CHECKED for call in record(block, folder, server.url)]
        jobs = [call for call in calls if call.is_job]
        done = subprocess.run(
            [sys.executable, "-m", "tests.docs.dry_run"], cwd=ROOT, capture_output=True, text=True, timeout=600,
            input=json.dumps([(call.environment, call.arguments) for call in jobs]), env=clean_environment(),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for call, (code, output) in zip(jobs, json.loads(done.stdout), strict=True):
        call.code, call.output = code, output
    return calls


def record(block: Block, folder: Path, url: str) -> list[Call]:
    """Run a block in a shell and return its calls; if the shell fails, that alone as a call."""
    records = folder / "records" / re.sub(r"\W", "_", block.name)
    records.mkdir(parents=True)
    environment = clean_environment(PATH=str(folder / "bin"), RECORDS=str(records), **VARIABLES)
    text = re.sub(r"\bSTYLE=\w+", "STYLE=no_emojis", checked_text(block))  # the tiny world has not every style
    text = re.sub(r"http://127\.0\.0\.1:8000(?=/v1)", url.removesuffix("/v1"), text)
    done = subprocess.run(
        ["bash", "-e", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        return [Call(block.name, {}, ["the shell"], done.returncode, f"{done.stderr}\nIf it cannot run here, mark it.")]
    calls = []
    for call in sorted(records.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        values = (call / "environment").read_text().split("\0")[:-1]
        arguments = (call / "arguments").read_text().split("\0")[:-1]
        calls.append(Call(block.name, dict(value.split("=", 1) for value in values), arguments))
    return calls


@pytest.mark.parametrize("block", FENCED, ids=[block.name for block in FENCED])
def test_a_mark_is_a_reason_or_names_tests_that_exist(block):
    for path in block.why.split(", ") if block.mark == "run by" else ():
        assert (ROOT / path).is_file(), f"{block.name}: {path} does not exist"
    assert len(block.why) > 8 or not block.mark


@pytest.mark.slow
@pytest.mark.parametrize("block", CHECKED, ids=[block.name for block in CHECKED])
def test_the_commands_of_a_block_are_right(block, calls):
    own = [call for call in calls if call.block == block.name]
    assert own or not COMMAND.search(checked_text(block)), "nothing was called"
    assert own or block.mark or not block.fenced, f"{block.name} calls nothing that can be checked: mark it"
    for call in own:
        shown = f"{block.name}: {' '.join(call.arguments)}\n{call.output}"
        if call.code is not None:
            assert call.code == 0, shown
        elif call.arguments[0] == "-m":
            assert find_spec(call.arguments[1]), shown
        elif call.arguments[0] == "install":
            check_extra(call.arguments[1])
        else:
            assert (ROOT / call.arguments[0]).is_file(), shown


def check_extra(requirement: str) -> None:
    """Check that `sdpo[extra]` names an extra of the package."""
    extra = re.fullmatch(r"sdpo\[([\w,]+)\]", requirement)
    declared = (ROOT / "pyproject.toml").read_text("utf-8")
    assert extra and all(f"\n{name} = [" in declared for name in extra[1].split(",")), requirement
