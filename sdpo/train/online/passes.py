"""Checkpoints of runs that pass over a batch of answers more than once (ITERATIONS)."""

from transformers import TrainerCallback

from sdpo.train.online.sampling import SamplingTrainer


class PassesCallback(TrainerCallback):
    """Puts a checkpoint off until the last pass over a batch of answers: no checkpoint holds these answers.

    A run that went on from between two passes would answer the prompts anew. Add it after the callbacks that ask for
    checkpoints.
    """

    def __init__(self, trainer: SamplingTrainer) -> None:
        self.trainer = trainer
        self._is_due = False

    def on_train_begin(self, args, state, control, **_) -> None:
        """Let TRL count the micro-batches from where a resumed run is, so that each prompt gets all of its passes."""
        self.trainer._step = state.global_step * args.gradient_accumulation_steps
        if self.trainer.is_between_passes and self.trainer.accelerator.is_main_process:
            print(
                f"note: checkpoint-{state.global_step} was written between two passes over the same answers, by an "
                "earlier version: its prompts are answered anew for the passes that are left.",
                flush=True,
            )

    def on_step_end(self, args, state, control, **_) -> None:
        """Put off a checkpoint that is due now, or write one that was put off."""
        if self.trainer.is_between_passes and not control.should_training_stop:
            self._is_due |= control.should_save
            control.should_save = False
        elif self._is_due:
            self._is_due, self.trainer.interrupted = False, False  # one of SAVE_STEPS, also if the run is to stop
            control.should_save = True
