"""Loss and signal on conversations that are not trained on, while the others are."""

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback

from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.offline.trainer import OfflineTrainer, Row, collate

FILE = "held_out.jsonl"


class HeldOutCallback(TrainerCallback):
    """Measures before the first step, every so many steps and after the last; a line each time."""

    def __init__(self, run: RunDirectory, trainer: OfflineTrainer, rows: Dataset, every: int) -> None:
        self.run, self.trainer, self.rows, self.every = run, trainer, rows, every
        self._last = -1

    def on_train_begin(self, args, state, control, **_) -> None:
        """Measure the starting model."""
        self._last = -1
        if self.trainer.accelerator.is_main_process:
            self.run.drop_rows_after(FILE, state.global_step - 1)
        self._measure(state.global_step)

    def on_step_end(self, args, state, control, **_) -> None:
        """Measure every so many steps."""
        if state.global_step % self.every == 0:
            self._measure(state.global_step)

    def on_train_end(self, args, state, control, **_) -> None:
        """Measure what was trained."""
        self._measure(state.global_step)

    def _measure(self, step: int) -> None:
        if step == self._last:
            return
        self._last, accelerator = step, self.trainer.accelerator
        size = self.trainer.args.per_device_train_batch_size
        # As many forwards on every process; rows that fill up the last ones count nothing.
        each = -(-len(self.rows) // (accelerator.num_processes * size)) * size
        first = accelerator.process_index * each
        sums = [0.0, 0.0, 0.0]
        for start in range(first, first + each, size):
            places = range(start, start + size)
            rows = collate([self.rows[place % len(self.rows)] for place in places])["rows"]
            found = self._look(rows, [float(place < len(self.rows)) for place in places])
            sums = [total + value for total, value in zip(sums, found, strict=True)]
        loss, signal_size, tokens = (sum(values) for values in zip(*gather_object([sums]), strict=True))
        if accelerator.is_main_process:
            row = {"step": step, "loss": loss / len(self.rows), "signal_size": signal_size / tokens}
            self.run.append(FILE, [row])
            print(f"held out, step {step}: loss {row['loss']:.4f}  |signal| {row['signal_size']:.4f}", flush=True)

    @torch.no_grad()
    def _look(self, rows: list[Row], weights: list[float]) -> tuple[float, float, float]:
        """Return the sums over the rows of their loss, of |signal| over their tokens, and of their tokens."""
        hindsight, model = self.trainer.hindsight, self.trainer.model_wrapped
        contexts, completions = [row.contexts for row in rows], [row.completion for row in rows]
        weights_B = torch.tensor(weights, device=self.trainer.accelerator.device)
        was_training = model.training
        model.eval()
        with self.trainer.compute_loss_context_manager():
            targets = hindsight.teacher_targets(contexts, completions)
            result = hindsight.loss(model, contexts, completions, targets, weights_B)
        model.train(was_training)
        mask_BT = result.scores.mask_BT * weights_B[:, None]
        return result.loss.item() * len(rows), (result.signal_BT.abs() * mask_BT).sum().item(), mask_BT.sum().item()
