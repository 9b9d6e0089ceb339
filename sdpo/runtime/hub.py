"""Uploading to the Hugging Face hub: checked before any work is done, private unless said otherwise, no token shown.

Importing this is cheap: the hub's client is imported when it is needed.
"""

from collections.abc import Iterable
from pathlib import Path

from sdpo.errors import SettingError, UploadFailed, one_line

WAYS_OUT = "Set HF_TOKEN to a token with write access, or run `hf auth login`"


def check_upload(
    setting: str, repository: str, given_token: str | None, dry_run: bool = False, *, otherwise: str = ""
) -> None:
    """Raise SettingError if nobody is logged in to the hub, or may not write; `setting` named the repository.

    The hub is asked who the token belongs to. A dry run only says so if it does not respond, or nobody is logged in.
    `otherwise` is a sentence on what can be done until it responds.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    named, token = f"{setting}={repository}", given_token or get_token()
    if not token:
        message = f"{named} needs an account of the hub. {WAYS_OUT}."
        if not dry_run:
            raise SettingError(message)
        print(f"note: {message}", flush=True)
        return
    try:
        user = HfApi(token=token).whoami()
    except OfflineModeIsEnabled:
        problem = "HF_HUB_OFFLINE is set, so the hub is not asked. Unset it."
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise SettingError(f"{named}: the hub does not accept the token. {WAYS_OUT}.") from None
        problem = f"the hub answers with an error ({_shown(error, token)})."
    except Exception as error:  # the hub's client has raised the errors of three HTTP libraries so far
        problem = f"the hub does not respond ({_shown(error, token)})."
    else:
        role = ((user.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise SettingError(f"{named}: the token may only read. {WAYS_OUT}.")
        return
    message = f"{named}: {problem} {otherwise}".rstrip()
    if not dry_run:
        raise SettingError(message)
    print(f"note: {message}", flush=True)


def upload(
    folder: Path,
    repository: str,
    given_token: str | None,
    *,
    public: bool,
    message: str,
    files: Iterable[str],
    kind: str = "model",
    more: dict[str, Path] | None = None,
    again: str = "",
) -> str:
    """Upload a folder's files to a repository, which is created if it does not exist; return its address.

    `files` are the patterns of the files' names, `more` further files by the name that they get. `kind` is "model" or
    "dataset". An existing repository stays as public or private as it is. Raises UploadFailed, with the command that
    uploads the files later: `again`, or that of the hub's own tool.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars, filter_repo_objects

    disable_progress_bars()
    token = given_token or get_token()
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    chosen = {name: folder / name for name in filter_repo_objects(paths, allow_patterns=list(files))} | (more or {})
    api = HfApi(token=token)
    try:
        address = api.create_repo(repository, private=not public, exist_ok=True, repo_type=kind)
        additions = [CommitOperationAdd(name, str(path)) for name, path in chosen.items()]
        api.create_commit(str(address.repo_id), additions, commit_message=message, repo_type=kind)
    except Exception as error:  # as above
        reason = _shown(error, token).rstrip(".")
        command = again or f"hf upload {repository} {folder}" + (" --repo-type dataset" if kind == "dataset" else "")
        raise UploadFailed(f"{repository} cannot be uploaded: {reason}. Upload it later with: {command}") from None
    return str(address)


def _shown(error: Exception, token: str | None) -> str:
    """Return the error on one line without the token."""
    text = one_line(error, 200)
    return text.replace(token, "…") if token else text
