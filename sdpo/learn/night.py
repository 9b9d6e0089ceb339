"""One night: from what was said to a decision, as stages that each leave a line in the journal.

canary, collect, prepare, split, audit, train, evaluate, register, promote. A stage that ended with the same inputs is
not repeated, and one that was interrupted goes on where its job left off, so the same command ends the same way
whenever it was stopped. If something that was collected is removed from the store before it is in a version, the night
begins anew.
"""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sdpo.evaluate.store import key_of
from sdpo.learn import collect
from sdpo.learn.journal import ANEW
from sdpo.learn.work import Work
from sdpo.registry import versions

STAGES = ("canary", "collect", "prepare", "split", "audit", "train", "evaluate", "register", "promote")
_OF_COLLECTED = STAGES[2:-1]  # those that use what was collected, until it is in a version


class Night(Work):
    """A run of the learner in its folder; `run` goes through the stages."""

    def run(self) -> dict[str, Any]:
        """Return the line of the stage that decided: its `outcome`, `exit_code` and `sentence`.

        Raises what the stages raise; the same command then goes on.
        """
        while (row := self._stages()) is None:
            self._begin_anew()
        return row

    def _stages(self) -> dict[str, Any] | None:
        """Return the line of the stage that decided, None if what was collected is no longer all in the store."""
        self.data.mkdir(parents=True, exist_ok=True)
        work: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
            "canary": ("", self.canary_stage),
            "collect": ("", self.collect_stage),
            "prepare": ("collect", self.prepare_stage),
            "split": ("prepare", self.split_stage),
            "audit": ("split", self.audit_stage),
            "train": ("split", self.train_stage),
            "evaluate": ("train", self.evaluate_stage),
            "register": ("evaluate", self.register_stage),
            "promote": ("register", self.promote_stage),
        }
        row: dict[str, Any] = {}
        for name in STAGES:
            if name in _OF_COLLECTED and self._is_removed():
                return None
            needs, function = work[name]
            before = self.results[needs]["output"] if needs else self.source() if name == "collect" else ""
            row = self._stage(name, before, function)
            if row.get("outcome"):
                break
        return row

    def _is_removed(self) -> bool:
        """Return whether something that was collected was removed from the store, and no version is made of it yet."""
        if self.settings.input is not None:
            return False
        run = str((self.folder.path / "train").resolve())
        if any(version.run == run for version in versions.versions(self.settings.registry)):
            return False  # `make forget` names it
        store = collect.open_store(self.settings)
        try:
            return collect.is_removed(store, self.data)
        finally:
            store.close()

    def _begin_anew(self) -> None:
        """Remove what was made of what was collected. If that is interrupted, it is done again."""
        for name in ("audit", "train", "evaluation", "start", "version", "data"):
            with suppress(FileNotFoundError):
                shutil.rmtree(self.folder.path / name)
        sentence = "something that was collected has been removed from the store: the night begins anew"
        self.journal.append({"stage": ANEW, "inputs": "", "sentence": sentence, "seconds": 0.0})
        self.results.clear()
        print(sentence, flush=True)

    def _stage(self, name: str, before: Any, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the journal's line of a stage, from before or by doing its work now."""
        inputs = key_of(name, before, self._judged_by() if name == "evaluate" else None)
        row = self.journal.result(name, inputs)
        if row is None:
            print(f"{name}: started", flush=True)
            started = time.monotonic()
            result = work()
            seconds = round(time.monotonic() - started, 1)
            row = self.journal.append({"stage": name, "inputs": inputs, **result, "seconds": seconds})
        self.results[name] = row
        print(f"{name}: {row['sentence']}", flush=True)
        return row

    def _judged_by(self) -> list[Any]:
        """Return what may change before a night goes on, and gives another evaluation."""
        settings = self.settings
        return [self.rival(), settings.judge_model, settings.judge_url, settings.eval_settings]
