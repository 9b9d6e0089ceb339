"""What happens with a trained model at the end: its card, merging, other formats, and the upload to the hub."""

from typing import TYPE_CHECKING

from sdpo.errors import RunError
from sdpo.models.policy import write_merged_model
from sdpo.runtime.commands import command
from sdpo.runtime.hub import upload
from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.export import MERGED, NOT_EXPORTED, export_gguf
from sdpo.train.model_card import write_card

if TYPE_CHECKING:
    from sdpo.settings import TrainingSettings

# Of a checkpoint the model alone: not the optimizer, the teacher, nor what names this machine's folders.
MODEL_FILES = (
    "config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json",
    "adapter_config.json", "adapter_model*.safetensors", "tokenizer*", "chat_template*", "special_tokens_map.json",
    "vocab*", "merges.txt", "added_tokens.json", "*.model",
)  # fmt: skip


def finish_model(
    settings: "TrainingSettings", job: str, run: RunDirectory, best: str | None, stopped: bool
) -> list[str]:
    """Write the card; merge, export and upload the model as the settings ask. The main process calls it.

    Returns what was done with the model, each in words that follow "it is".

    `best` is the checkpoint to use instead of the last one. A run that was `stopped` by the guard without any has no
    model to publish. Raises RunError if there is no checkpoint, UploadFailed if the upload fails.
    """
    wanted = [name for name in ("merge_adapter", "push_to_hub") if getattr(settings, name)]
    wanted += ["export"] if settings.export != "none" else []
    if stopped and not best and wanted:
        print(f"no {_WORDS[wanted[0]]}: the guard stopped the run before any good checkpoint", flush=True)
        wanted = []
    if not wanted:
        write_card(run, job, settings.model_license)
        return []
    checkpoint = run.path / best if best else run.last_checkpoint()
    if checkpoint is None:
        raise RunError(f"{run.path} has no checkpoint to use for {', '.join(name.upper() for name in wanted)}.")
    merged, done = None, []
    if settings.merge_adapter or (settings.export != "none" and settings.adapter != "none"):
        merged = run.path / MERGED
        write_merged_model(settings.model, checkpoint, merged)
        print(f"merged model: {merged}", flush=True)
        done.append("merged into its base model")
    write_card(run, job, settings.model_license, merged)
    if settings.export == "gguf":
        is_written = export_gguf(merged or checkpoint, run.path, settings.llama_cpp)
        done.append("written as GGUF" if is_written else NOT_EXPORTED)
    if settings.push_to_hub:
        model, about = (merged, merged) if settings.merge_adapter and merged else (checkpoint, run.path)
        address = upload(
            model,
            settings.push_to_hub,
            settings.hf_token,
            public=settings.hub_public,
            message=f"{job}, {run.path.name}",
            files=MODEL_FILES,
            more={"README.md": about / "README.md"},
            again=command(
                job, merge_adapter=settings.merge_adapter, push_to_hub=settings.push_to_hub,
                hub_public=settings.hub_public, model_license=settings.model_license, output_dir=run.path,
            ),
        )  # fmt: skip
        print(f"uploaded to {address}", flush=True)
        done.append("uploaded")
    return done


_WORDS = {"merge_adapter": "merged model", "push_to_hub": "upload", "export": "export"}
