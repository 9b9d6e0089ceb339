"""Names from elsewhere: what other trainers call our settings, and the variables of other programs."""

# ruff: noqa: SIM905 (long lists of names are easier to read as one string)

# TRL, transformers and accelerate; then names that people try.
OUR_NAMES = {
    "per_device_train_batch_size": "bs",
    "train_batch_size": "bs",
    "batch_size": "bs",
    "per_device_eval_batch_size": "eval_batch_size",
    "gradient_accumulation_steps": "ga",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "max_train_samples": "train_n",
    "max_eval_samples": "eval_n",
    "max_completion_length": "max_completion_tokens",
    "max_new_tokens": "max_completion_tokens",
    "max_tokens": "max_completion_tokens",
    "max_prompt_length": "max_prompt_tokens",
    "max_seq_length": "max_context_tokens",
    "max_length": "max_context_tokens",
    "logging_steps": "log_steps",
    "save_total_limit": "save_limit",
    "resume_from_checkpoint": "resume",
    "bf16": "precision",
    "fp16": "precision",
    "dtype": "precision",
    "torch_dtype": "precision",
    "optim": "optimizer",
    "lr_scheduler_type": "lr_schedule",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "use_peft": "adapter",
    "use_lora": "adapter",
    "load_in_4bit": "adapter",
    "lora_r": "lora_rank",
    "lora_target_modules": "lora_targets",
    "target_modules": "lora_targets",
    "num_iterations": "iterations",
    "mask_truncated_completions": "mask_truncated",
    "use_vllm": "generation",
    "vllm_mode": "generation",
    "vllm_server_base_url": "vllm_url",
    "num_processes": "gpus",
    "nproc_per_node": "gpus",
    "dataset_name": "data_path",
    "dataset": "data_path",
    "train_file": "train_jsonl",
    "validation_file": "val_jsonl",
    "eval_file": "val_jsonl",
    "hub_model_id": "push_to_hub",
    "run_name": "run_id",
}

# Names in `.env` that belong to other programs. They are exported to the environment.
_FOREIGN_PREFIXES = (
    "HF_ HUGGINGFACE_ WANDB_ CUDA_ NVIDIA_ NCCL_ GLOO_ TORCH_ TORCHINDUCTOR_ PYTORCH_ TRITON_ OMP_ MKL_ OPENBLAS_ "
    "TOKENIZERS_ TRANSFORMERS_ DATASETS_ BNB_ ANTHROPIC_ OPENAI_ COMPOSE_ DOCKER_ LC_ XDG_ PYTHON PIP_ SSL_ REQUESTS_ "
    "LD_ AWS_ SLURM_ MPL"
).split()
_FOREIGN_NAMES = set(
    "UID GID USER HOME PATH SHELL LANG TZ TERM TMPDIR TMP TEMP NO_COLOR FORCE_COLOR COLUMNS CI "
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY MASTER_ADDR MASTER_PORT CURL_CA_BUNDLE "
    "JOB BASE_IMAGE TORCH_INDEX".split()  # the last three and DOCKER_... are read by the containers
)


def is_foreign(name: str) -> bool:
    """Return whether a variable of this name belongs to another program or to the shell."""
    return name.upper() in _FOREIGN_NAMES or name.upper().startswith(tuple(_FOREIGN_PREFIXES))
