"""Pushes clients' models to the Hugging Face hub: one repository, one commit, private unless said otherwise."""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

from fedpeft.errors import UserError, preview
from fedpeft.runs.model_card import MODEL_CARD

# HfHubHTTPError's bases are OSError and the HTTP library's error, which is httpx in some versions and httpx2 in others.
_REFUSALS: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, HFValidationError, OSError)
ADAPTER_FILES = (MODEL_CARD, CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME)  # fedpeft.json names paths of this machine


def push(folders: Mapping[str, Path], repository: str, public: bool, api: HfApi | None = None) -> str:
    """Pushes each folder's files under its name, "" for the repository's top; returns the repository's address.

    Of an adapter's folder go the files of PEFT and the card. A new repository is private unless `public`. Raises
    UserError where the hub cannot be reached or refuses, and where the repository is there and public already, which
    must be said with `public`.
    """
    api = api or HfApi()
    operations = [
        CommitOperationAdd(f"{name}/{file.name}".lstrip("/"), str(file))
        for name, folder in folders.items()
        for file in sorted(folder.iterdir())
        if file.is_file() and (not (folder / CONFIG_NAME).is_file() or file.name in ADAPTER_FILES)
    ]
    try:
        address = str(api.create_repo(repository, private=not public, exist_ok=True))
        if not public and not api.repo_info(repository).private:
            raise UserError(f"{preview(repository)} is there already, and public; say --public, or give another name")
        api.create_commit(repository, operations, commit_message=f"{len(folders)} models by fedpeft")
    except LocalTokenNotFoundError as error:
        raise UserError("--push-to-hub: no token of the hub's here; `hf auth login`, or set HF_TOKEN") from error
    except _REFUSALS as error:
        raise UserError(
            f"--push-to-hub {preview(repository)}: {str(error).strip() or repr(error)}; "
            "check the name (OWNER/NAME), the token (`hf auth login`) and the network"
        ) from error
    return address
