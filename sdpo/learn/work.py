"""The stages of a night, each as the work that it does.

A stage returns what its line in the journal says: `sentence`, `output` (a fingerprint of what it made), what later
stages need, and, if the night ends with it, `outcome` and `exit_code`.
"""

import json
import shlex
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sdpo.errors import EXIT_STOP, KEEP_EXIT_CODE, GuardStopped, RunError, SdpoError, command, one_line
from sdpo.evaluate.prompts import holds_interactions
from sdpo.evaluate.release import gain_of
from sdpo.evaluate.store import key_of
from sdpo.evaluate.trained_run import read_run
from sdpo.learn import canary, collect
from sdpo.learn.journal import Journal
from sdpo.learn.stages import Stages
from sdpo.registry import moves, versions
from sdpo.registry.live import of_conversations, read_live
from sdpo.runtime import processes
from sdpo.runtime.commands import on_registry
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings.training import RULE

if TYPE_CHECKING:
    from sdpo.settings import LearnSettings

PREPARED = "logs_interactions.jsonl"
STOPPED, KEPT, NOTHING = "stopped", "kept", "nothing new"
PROMOTED, CANDIDATE, CANARY = "promoted", "candidate", "canary"


class Work:
    """What the stages of a night do, in its folder. `results` has the journal's lines of the stages that ended."""

    def __init__(self, settings: "LearnSettings", folder: RunDirectory, lock: IO[str]) -> None:
        self.settings, self.folder = settings, folder
        self.data = folder.path / "data"
        self.journal = Journal(folder)
        deadline = None if settings.max_hours is None else time.monotonic() + settings.max_hours * 3600
        self.stages = Stages(folder.path, lock, deadline)
        self.results: dict[str, dict[str, Any]] = {}

    def rival(self) -> str | None:
        """Return the version that a candidate is compared with: what is live, None for the base model.

        If that is this night's own version already, because the process was killed right after it went live, it is
        what the version was compared with.
        """
        registry, train = self.settings.registry, self.folder.path / "train"
        live = read_live(registry).version
        if live is None or versions.read(registry, live).run != str(train.resolve()):
            return live
        return next((row["against"] for row in reversed(self.journal.rows) if row["stage"] == "evaluate"), None)

    def canary_stage(self) -> dict[str, Any]:
        """Decide on the canary of an earlier night."""
        settings, live = self.settings, read_live(self.settings.registry)
        if live.canary is None:
            return {"sentence": "there is none", "output": ""}
        try:
            store = collect.open_store(settings)
            compared = canary.comparison_of(store, live, settings.tiny, settings.canary_min, settings.canary_margin)
            sentence = canary.finish(settings, compared)
        except SdpoError as error:  # tonight's learning does not depend on it
            return {"sentence": f"{live.canary.version} is still tried: {one_line(error)}", "output": ""}
        measures = [asdict(measure) for measure in compared.measures]
        return {"sentence": sentence, "output": "", "measures": measures}

    def source(self) -> list[Any]:
        """Return what decides whether the conversations are the same: the store's address, or the files of INPUT."""
        source = self.settings.input
        return [self.settings.store_url] if source is None else collect.input_listing(source)

    def collect_stage(self) -> dict[str, Any]:
        """Write down what was said and by whom."""
        settings, live = self.settings, read_live(self.settings.registry).version
        person, started = collect.person_hash(settings.registry), time.time()
        if settings.input is not None:
            known = collect.write_persons_of_input(
                settings.input, self.data, person, collect.persons_key(settings.registry)
            )
            output = key_of(collect.input_listing(settings.input))
            sentence = f"{settings.input}" + (f", {known} conversations with a known person" if known else "")
            return {"sentence": sentence, "output": output, "live": live, "started": started}
        store = collect.open_store(settings)
        more = collect.has_more(store, settings.registry, self._settings_key())
        counts = collect.write_conversations(store, self.data, settings.conversations == "unused", person)
        output = collect.digest(self.data / collect.CONVERSATIONS, self.data / collect.PERSONS)
        sentence = f"{counts['conversations']} conversations, {len(counts['unused'])} of them not learned from yet"
        row = {"sentence": sentence, "output": output, "live": live, "started": started}
        if not counts["unused"] or not more:
            nothing = f"the store {store.shown} has no conversation yet"
            added = "all that was said has been learned from already; nothing was added since"
            row |= _ends(NOTHING, 0, added if counts["conversations"] else nothing)
        elif not counts["replied"]:
            row |= _ends(NOTHING, 0, f"{sentence}, and in none did a user reply to an answer")
        return row

    def prepare_stage(self) -> dict[str, Any]:
        """Make interactions of it."""
        source = self.settings.input or self.data / collect.CONVERSATIONS
        target = self.data / PREPARED
        if source.is_file() and holds_interactions(source):
            shutil.copyfile(source, target)
            return {"sentence": f"{source} has interactions already", "output": collect.digest(target)}
        values = {"input": source, "out_dir": self.data, "force": True}
        self.stages.run("prep-logs", values | {"id_key": collect.persons_key(self.settings.registry)})
        report = json.loads((self.data / "report.json").read_text("utf-8"))
        kept = report["counts"]["interactions"]["kept"]
        return {"sentence": f"{kept} interactions, see {self.data / 'report.json'}", "output": collect.digest(target)}

    def split_stage(self) -> dict[str, Any]:
        """Hold persons out."""
        parts = collect.write_split(self.data / PREPARED, self.data, self.settings)
        output = collect.digest(self.data / collect.TRAIN, self.data / collect.HELD_OUT)
        sentence = f"{len(parts.train)} interactions to train on, {len(parts.held_out)} held out by {parts.by}"
        sentence += f"; {parts.capped} left out, of persons with many" if parts.capped else ""
        self.folder.write_json(f"data/{collect.SPLIT}", {"by": parts.by, "persons": parts.persons})
        row = {"sentence": sentence, "output": output, "interactions": len(parts.train)}
        least = self.settings.min_interactions
        if len(parts.train) < least or not parts.held_out:
            row |= _ends(NOTHING, 0, f"too little was said: {sentence}, and {least} are needed (MIN_INTERACTIONS)")
        return row

    def audit_stage(self) -> dict[str, Any]:
        """Ask the audit whether training can work."""
        settings, out = self.settings, self.folder.path / "audit"
        values = {**self._shared(), "model": settings.model, "data": self.data / collect.TRAIN, "output_dir": out}
        judge = next(iter(shlex.split(settings.judge_model or "")), None)  # an audit has one
        # Without a name the audited model itself judges, and is loaded once.
        named = None if judge == str(settings.model) else judge
        values |= {"judge_model": named, "judge_url": settings.judge_url}
        values |= (self._style() if judge == RULE else {}) | words(settings.audit_settings)
        if not _finished(out):
            self.stages.run("audit", values, allowed=(0, EXIT_STOP))
        candidates = json.loads((out / "audit.json").read_text("utf-8"))["candidates"]
        best = next((one for one in candidates if one["verdict"] != "stop"), candidates[0])
        row = {"sentence": best["verdict"], "output": collect.digest(out / "audit.json"), "changes": best["changes"]}
        if best["changes"]:
            changes = (f"{change['setting']} ({change['why']})" for change in best["changes"])
            row["sentence"] += f": {'; '.join(changes)}"
        if best["verdict"] == "stop":
            row |= _ends(STOPPED, EXIT_STOP, f"the audit says stop: {' '.join(best['reasons'])}")
        return row

    def train_stage(self) -> dict[str, Any]:
        """Train an adapter, on from the last checkpoint if there is one."""
        settings, out = self.settings, self.folder.path / "train"
        values = {**self._shared(), "model": self._start(), "train_jsonl": self.data / collect.TRAIN}
        values |= {"val_jsonl": self.data / collect.HELD_OUT, "output_dir": out, **self._style()}
        values |= {"adapter": "lora"} | with_gpus(settings, settings.train_settings)
        late = False
        if not _finished(out):
            metrics, ends = out / "metrics.jsonl", (0, GuardStopped.exit_code)
            _, late = self.stages.run("train-offline", values, ends, lambda: _has_lines(metrics))
        run = RunDirectory(out)
        last, summary = run.last_checkpoint(), run.read_json("summary.json") or {}
        guard = summary.get("stopped_by_guard")
        if last is None and not guard:
            raise RunError(f"{out} has no checkpoint. See {self.folder.path / 'train-offline.log'}.")
        row = {"sentence": f"{last.name if last else 'no checkpoint'} in {out}", "output": _weights(run)}
        if guard:
            row["sentence"] += f", stopped by the guard: {'; '.join(guard['reasons'])}"
            if not summary.get("best_checkpoint"):
                row |= _ends(STOPPED, GuardStopped.exit_code, f"the guard stopped the training: {guard['reasons'][0]}")
        elif late:
            row["sentence"] += f", ended by MAX_HOURS={settings.max_hours:g}"
        return row

    def _style(self) -> dict[str, Any]:
        return {"style": self.settings.style, "style_file": self.settings.style_file}

    def _start(self) -> str:
        """Return the model to train: the base, or with CONTINUE=1 the live version as a whole model."""
        settings, live = self.settings, self.results["collect"]["live"]
        if not settings.from_live or live is None:
            return settings.model
        version = versions.read(settings.registry, live)
        folder = version.folder(settings.registry)
        if version.kind == "model":
            return str(folder)
        merged = self.folder.path / "start"
        if not merged.exists():
            from sdpo.models.policy import write_merged_model
            from sdpo.models.pretrained import silence_libraries

            silence_libraries()
            write_merged_model(version.base, folder, merged)
        return str(merged)

    def evaluate_stage(self) -> dict[str, Any]:
        """Compare the checkpoints with what is live, on what the held-out persons said."""
        settings, run = self.settings, self.folder.path / "train"
        live = self.rival()
        baseline = None if live is None else versions.read(settings.registry, live).folder(settings.registry)
        values = {**self._shared(), "run_dir": run, "output_dir": self.folder.path / "evaluation"}
        trained = read_run(run)
        good = [step for step in trained.checkpoints() if step not in trained.warned_steps()]
        values |= {"baseline": baseline or settings.model, **self._style()}
        values |= {"ckpts": " ".join(map(str, good)) or None}
        values |= {"judge_model": settings.judge_model, "judge_url": settings.judge_url}
        values |= with_gpus(settings, settings.eval_settings)
        rows = collect.read_interactions(self.data / collect.HELD_OUT, command("prep-logs"))
        if int(values.get("eval_n", 0)) > len({key_of(row.prompt, row.user_response) for row in rows}):
            del values["eval_n"]  # an evaluation refuses to answer fewer different prompts than it is given
        self.stages.run("eval", values, allowed=(0, KEEP_EXIT_CODE))
        path = self.folder.path / "evaluation" / "release.json"
        release = json.loads(path.read_text("utf-8"))
        return {"sentence": release["sentence"], "output": collect.digest(path), "against": live}

    def _settings_key(self) -> str:
        """Return what stands for the night's settings that change what is learned."""
        return key_of((self.folder.read_json("run.json") or {}).get("identity"))

    def register_stage(self) -> dict[str, Any]:
        """Add the best checkpoint to the registry, whatever its verdict."""
        settings, run = self.settings, RunDirectory(self.folder.path / "train")
        release = json.loads((self.folder.path / "evaluation" / "release.json").read_text("utf-8"))
        step = release["checkpoint"] or max((one["checkpoint"] for one in release["releases"]), default=None)
        folder = run.last_checkpoint() if step is None else run.path / f"checkpoint-{step}"
        if folder is None:
            raise RunError(f"{run.path} has no checkpoint that could be a version.")
        train = list(collect.read_interactions(self.data / collect.TRAIN, command("prep-logs")))
        ids = collect.real_ids(self.data, collect.conversations_of(train))
        split = self.folder.read_json(f"data/{collect.SPLIT}") or {}
        parent = self.results["collect"]["live"] if settings.from_live else None
        data = {"interactions": len(train), "conversations": ids, "persons": split["persons"]}
        started = self.results["collect"]["started"]
        if settings.input is None:
            data["collected"] = collect.facts_of(collect.open_store(settings), ids, started, self._settings_key())
        version = versions.add(
            settings.registry, self._as_version(folder), self._start(), run=run.path, parent=parent, data=data,
            checkpoint=int(folder.name.rpartition("-")[2]),
            verdict={name: release[name] for name in ("verdict", "checkpoint", "sentence")},
        )  # fmt: skip
        if settings.input is None:
            collect.open_store(settings).mark_used(ids, version.name, started)
        gain = gain_of(release, version.checkpoint)
        row = {"sentence": f"{version.name}: {version.verdict['sentence']}{gain and f'; {gain}'}"}
        row |= {"output": version.weights, "version": version.name, "gain": gain}
        if version.kept:
            row |= _ends(KEPT, KEEP_EXIT_CODE, f"{version.name} does not go live: {version.verdict['sentence']}")
        return row

    def _as_version(self, checkpoint: Path) -> Path:
        """Return the folder to add: the adapter on the base; after CONTINUE=1 all of it merged into one model."""
        if not self.settings.from_live or self._start() == self.settings.model:
            return checkpoint
        merged = self.folder.path / "version"
        if not merged.exists():
            from sdpo.models.policy import write_merged_model
            from sdpo.models.pretrained import silence_libraries

            silence_libraries()
            write_merged_model(self._start(), checkpoint, merged)
        return merged

    def promote_stage(self) -> dict[str, Any]:
        """Let the version go live, or be tried, or wait."""
        settings, name = self.settings, self.results["register"]["version"]
        live = read_live(settings.registry)
        row: dict[str, Any] = {"output": name, "version": name}
        if live.canary is not None and live.canary.version != name:
            return row | _ends(CANDIDATE, 0, f"{name} waits until {live.canary.version} is no longer tried")
        against = self.results["evaluate"]["against"]
        promoting = on_registry(settings.registry, "promote", f"VERSION={name}")
        if self.rival() != against:
            sentence = f"{name} was compared with {against or 'the base model'}, and {live.version} is live now"
            return row | _ends(CANDIDATE, 0, f"{sentence}: {command('learn')} again, or {promoting}")
        if not settings.auto_promote and not settings.canary:
            sentence = f"{name} is better than what is live: {promoting} lets it go live"
            return row | _ends(CANDIDATE, 0, sentence)
        in_place = live.canary.version if settings.canary and live.canary else None if settings.canary else live.version
        if in_place != name:
            moves.promote(settings, name, reason=f"make learn, {self.folder.path.name}")
        if settings.canary:
            return row | _ends(CANARY, 0, f"{name} answers {of_conversations(settings.canary)}")
        gain = self.results["register"].get("gain", "")  # nights of earlier versions did not keep it
        return row | _ends(PROMOTED, 0, f"{name} is live{gain and f': {gain}'}")

    def _shared(self) -> dict[str, Any]:
        return {"tiny": self.settings.tiny or None, "seed": self.settings.seed}


def words(text: str) -> dict[str, str]:
    """Return NAME=value words as a mapping from lower-case names."""
    return {name.lower(): value for name, _, value in (word.partition("=") for word in shlex.split(text))}


def with_gpus(settings: "LearnSettings", text: str) -> dict[str, Any]:
    """Return the settings of a stage; a number of processes is one for each GPU, unless they have another."""
    given: dict[str, Any] = dict(words(text))
    if "world_size" in given or "gpus" in given or settings.tiny:
        return given
    return {"gpus": max(1, len(processes.visible_gpus()))} | given


def _ends(outcome: str, code: int, sentence: str) -> dict[str, Any]:
    return {"outcome": outcome, "exit_code": code, "sentence": sentence}


def _finished(folder: Path) -> bool:
    return bool((RunDirectory(folder).read_json("summary.json") or {}).get("finished"))


def _has_lines(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _weights(run: RunDirectory) -> str:
    """Return a fingerprint of a run's checkpoints."""
    from sdpo.evaluate.fingerprints import NothingKnown, folder_fingerprint

    return key_of([[step, folder_fingerprint(folder, NothingKnown())] for step, folder in run.checkpoints().items()])
