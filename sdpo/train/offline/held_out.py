"""Loss and signal on held-out conversations during training."""

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback

from sdpo import progress
from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.offline.trainer import OfflineTrainer, Row, collate

FILE = "held_out.jsonl"


class HeldOutCallback(TrainerCallback):
    """Measures before the first step, every N steps and after the last; appends a row to `held_out.jsonl` each time."""

    def __init__(self, run: RunDirectory, trainer: OfflineTrainer, rows: Dataset, every: int) -> None:
        self.run, self.trainer, self.rows, self.every = run, trainer, rows, every
        self._last = -1

    def on_train_begin(self, args, state, control, **_) -> None:
        """Measure the initial model."""
        self._last = -1
        if self.trainer.accelerator.is_main_process:
            self.run.drop_rows_after(FILE, state.global_step - 1)
        self._measure(state.global_step)

    def on_step_end(self, args, state, control, **_) -> None:
        """Measure every N steps."""
        if state.global_step % self.every == 0:
            self._measure(state.global_step)

    def on_train_end(self, args, state, control, **_) -> None:
        """Measure the trained model."""
        self._measure(state.global_step)

    def _measure(self, step: int) -> None:
        if step == self._last:
            return
        self._last, accelerator = step, self.trainer.accelerator
        size = self.trainer.args.per_device_train_batch_size
        # Every rank runs the same number of forward passes; the rows that pad the last ones have weight 0.
        rows_per_rank = -(-len(self.rows) // (accelerator.num_processes * size)) * size
        first = accelerator.process_index * rows_per_rank
        sums = [0.0, 0.0, 0.0]
        for start in progress.each(range(first, first + rows_per_rank, size), "held-out rows", "batches"):
            indices = range(start, start + size)
            rows = collate([self.rows[index % len(self.rows)] for index in indices])["rows"]
            batch_sums = self._batch_sums(rows, [float(index < len(self.rows)) for index in indices])
            sums = [total + value for total, value in zip(sums, batch_sums, strict=True)]
        loss, signal_size, tokens = (sum(values) for values in zip(*gather_object([sums]), strict=True))
        if accelerator.is_main_process:
            row = {"step": step, "loss": loss / len(self.rows), "signal_size": signal_size / tokens}
            self.run.append(FILE, [row])
            print(f"held out, step {step}: loss {row['loss']:.4f}  |signal| {row['signal_size']:.4f}", flush=True)

    @torch.no_grad()
    def _batch_sums(self, rows: list[Row], weights: list[float]) -> tuple[float, float, float]:
        """Return the weighted sums over the rows of loss, of |signal| over their tokens, and of their token counts."""
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
