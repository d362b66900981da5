"""Merges a client's LoRA into its backbone: a model folder for transformers alone, without PEFT and fedpeft."""

from pathlib import Path
from typing import Any, cast

from safetensors.torch import save_file

from fedpeft.adapters.export import replace_folder
from fedpeft.adapters.load import StoredAdapter
from fedpeft.backbones import SequenceClassifier
from fedpeft.errors import UserError
from fedpeft.runs.export import get_adapter_folder, read_card
from fedpeft.runs.load_exported import load_exported
from fedpeft.runs.loading import HEAD
from fedpeft.runs.model_card import MODEL_CARD, make_merged_card
from fedpeft.small_files import read_small_file


def merge(run: Path, client: str, folder: Path) -> None:
    """Writes a client's model into `folder`, in place of what it held: weights, tokenizer, card; a head in a file
    beside them. Its logits are those of the adapter up to rounding.

    Raises UserError, before the backbone is loaded, where the adapter cannot be merged.
    """
    card = read_card(run, client)
    if card.model.quantization is not None:
        raise UserError(
            f"{run} has a backbone in {card.model.quantization}, into which merging would round the adapter away; "
            f"serve the adapter itself: {get_adapter_folder(run, client)}"
        )

    def require_mergeable(adapter: StoredAdapter) -> None:
        if not adapter.kind.can_merge:
            raise UserError(
                f"client {client!r} has an adapter of kind {adapter.kind.name}, whose edits depend on the input: no "
                f"weights hold them; serve the adapter itself: {get_adapter_folder(run, client)}"
            )

    loaded = load_exported(run, client, card, require_mergeable)
    merged: Any = cast(Any, loaded.model.model).merge_and_unload(safe_merge=True)
    model = merged.backbone if isinstance(merged, SequenceClassifier) else merged
    if model is not merged and len(card.labels) > 1:
        model.config.id2label = dict(enumerate(card.labels))
        model.config.label2id = {label: index for index, label in enumerate(card.labels)}
    with replace_folder(folder) as temporary:
        model.save_pretrained(str(temporary))
        loaded.tokenizer.save_pretrained(str(temporary))
        if model is not merged:
            save_file(
                {name: tensor.contiguous() for name, tensor in merged.classifier.state_dict().items()}, temporary / HEAD
            )
        (temporary / MODEL_CARD).write_text(make_merged_card(card, client, _read_adapter_card(run, client)))


def _read_adapter_card(run: Path, client: str) -> str:
    """What the adapter's own card says; nothing of runs of earlier versions, which wrote none."""
    file = get_adapter_folder(run, client) / MODEL_CARD
    return read_small_file(file).decode("utf-8", "replace") if file.is_file() else ""
