"""Models whose LM head is their embedding: the file holds it once, and transformers must not report it as missing."""

from transformers import PreTrainedModel


def expect_no_tied_head(model: PreTrainedModel) -> None:
    """Tell transformers that checkpoints hold no copy of the model's tied weights; other missing weights are reported.

    Without this, loading a checkpoint into a trainer warns of a missing `lm_head.weight` for every tied model. It is
    not missing: it is the embedding, which is loaded.
    """
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    if tied and model.config.tie_word_embeddings:
        model._keys_to_ignore_on_save = tied | set(model._keys_to_ignore_on_save or ())
