"""What is under way is shown: on a terminal as a bar, elsewhere as a line now and then, and nothing for short steps."""

import os
import pty
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from sdpo.progress import each, task
from sdpo.progress.library import LibraryBar
from sdpo.progress.tasks import Task, line, under_way
from tests.worlds import environment

QUICK = "from sdpo.progress import display; display.FIRST, display.EVERY, display.TICK = 0.4, 0.8, 0.1\n"
START = "import sys, time\nfrom sdpo import progress\n" + QUICK


def run(code: str) -> list[tuple[float, str]]:
    """Run code whose output goes to a pipe; return when each line arrived, in seconds, and the line."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", START + code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment(),
    )  # fmt: skip
    lines = [(time.monotonic() - started, text.rstrip("\n")) for text in process.stdout]
    assert process.wait() == 0, lines
    return lines


def on_terminal(code: str) -> str:
    """Run code with a terminal as its output, and return all that it wrote there."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", START + code], stdout=child, stderr=child, env=environment(COLUMNS="100")
    )
    os.close(child)
    written = b""
    while True:
        try:
            block = os.read(parent, 1 << 16)
        except OSError:  # Linux's way of saying that nobody writes any more
            break
        if not block:
            break
        written += block
    os.close(parent)
    assert process.wait() == 0, written
    return written.decode()


def test_a_line_says_what_how_far_how_fast_and_when_it_ends():
    answers = Task("answers before training", 64, "answers", started=100.0)
    answers.advance(16)
    assert answers.text(120.0) == "answers before training: 16 of 64 answers (25 %), 1.2 s each, 1:00 left"
    tokens = Task("tokens of each", 48, done=0, started=110.0)
    tokens.advance(12)
    assert line([answers, tokens], 120.0).endswith("1:00 left; tokens of each: 12 of 48")
    assert Task("loading a model", started=100.0).text(163.0) == "loading a model: 1:03"


def test_what_an_earlier_run_did_does_not_count_for_the_speed():
    steps = Task("training", 10, "steps", done=6, started=0.0)
    assert steps.text(4.0) == "training: 6 of 10 steps (60 %), 0:04 so far"
    steps.advance(2)
    assert steps.text(8.0) == "training: 8 of 10 steps (80 %), 4.0 s each, 0:08 left"


def test_nothing_is_silent_for_long_and_short_steps_print_nothing():
    lines = run(
        "with progress.shown('a job'):\n"
        "    for _ in progress.each(range(5), 'short', 'steps'): time.sleep(0.01)\n"
        "    with progress.task('slow', 8, 'steps') as slow:\n"
        "        for _ in range(8): time.sleep(0.4); slow.advance()\n"
        "    print('a result')\n"
        "    with progress.task('outer', 2, 'steps'), progress.task('without a count'): time.sleep(2)\n"
    )
    texts = [text for _, text in lines]
    assert not any("short" in text for text in texts)
    counts = [int(found[1]) for text in texts if (found := re.match(r"slow: (\d) of 8 steps \(.*left", text))]
    assert len(counts) >= 2 and counts == sorted(counts)
    result = texts.index("a result")
    assert texts[result - 1].startswith("slow: 8 of 8 steps in 0:0")
    assert re.match(r"outer: 0 of 2 steps \(0 %\), 0:0\d so far; without a count: 0:0\d", texts[result + 1])
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(lines)]
    assert max(gaps) < 2.0


def test_a_job_that_prints_itself_is_not_interrupted():
    lines = run(
        "with progress.shown('a job'), progress.task('slow', 9, 'steps'):\n"
        "    for step in range(20): time.sleep(0.1); print('step', step)\n"
    )
    assert [text for _, text in lines if text.startswith("step")] == [f"step {number}" for number in range(20)]
    assert sum("slow" in text for _, text in lines) <= 1


def test_lines_of_the_job_are_never_mixed_with_those_of_the_progress():
    lines = run(
        "display.FIRST, display.EVERY = 0.0, 0.0\n"
        "with progress.shown('a job'), progress.task('under way'):\n"
        "    for step in range(20):\n"
        "        print('a', end='', flush=False); time.sleep(0.05); print('b', end=''); print('c')\n"
        "        print('an error', file=sys.stderr)\n"
    )
    assert {text for _, text in lines} <= {
        "abc",
        "an error",
        *(f"{what}: 0:0{second}" for what in ("a job", "under way") for second in range(10)),
    }
    assert len([text for _, text in lines if text == "abc"]) == 20


def test_only_the_main_process_prints_and_only_inside_a_job():
    code = "with progress.task('slow', 3, 'steps'): time.sleep(1.5)\n"
    assert run("with progress.shown('a job', main=False):\n    " + code) == []
    assert run(code) == []


def test_an_error_ends_what_was_under_way(capsys):
    with pytest.raises(ValueError, match="broken"), task("outer"):
        for _ in each([1, 2], "inner", "rows"):
            raise ValueError("broken")
    assert under_way() == []


def test_on_a_terminal_there_is_a_bar_and_what_is_printed_stands_above_it():
    written = on_terminal(
        "with progress.shown('a job'):\n"
        "    with progress.task('training', 4, 'steps') as steps, progress.task('scoring'):\n"
        "        for step in range(4): time.sleep(0.8); steps.advance(); print('step', step + 1)\n"
        "print('the end')\n"
    )
    bar = r"training +\d+% \|.*\| [123] of 4 steps \[00:0\d, 00:0\d left, .*\], scoring: 0:0\d"
    assert re.search(bar, written), written
    shown = [text.split("\r")[-1] for text in written.replace("\r\n", "\n").split("\n")]
    assert [text for text in shown if text.startswith(("step", "the end"))] == [
        "step 1", "step 2", "step 3", "step 4", "the end",
    ]  # fmt: skip
    assert "training: " not in written  # no lines as in a log


def test_the_bar_of_a_library_is_a_task():
    for _ in LibraryBar([1, 2, 3], desc="Loading weights"):
        (under,) = under_way()
        assert (under.label, under.total) == ("Loading weights", 3)
    assert under.done == 3 and under_way() == []
    with LibraryBar(total=10, unit="B") as bar:
        bar.update(4)
        bar.refresh()
        assert under_way()[0].count == "4 of 10 B"
    assert under_way() == []


@pytest.mark.parametrize("imported", ["sdpo.progress", "sdpo.progress.library"])
def test_importing_it_is_cheap(imported):
    heavy = "{'torch', 'transformers', 'numpy', 'rich'}"
    code = f"import sys, {imported}; assert not {heavy} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), cwd=Path(__file__).parents[2])
