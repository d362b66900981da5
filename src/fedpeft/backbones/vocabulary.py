"""Whether a tokenizer is the model's own: it knows words, and the model knows every token that it makes."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fedpeft.backbones.locate import quote
from fedpeft.errors import UserError

_SPECIAL = ("pad", "unk", "bos", "eos", "cls", "sep")


def require_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Raises `UserError` for a tokenizer without words, and for one that makes tokens without an embedding.

    transformers makes the first of a folder without tokenizer files: every word is then the unknown token.
    """
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    words = {word: id_ for word, id_ in tokenizer.get_vocab().items() if word not in special}
    if not any(character.isalnum() for word in words for character in word):
        raise UserError(
            f"backbone {quote(name)} has a tokenizer without words: its files (tokenizer.json, or vocab.txt or the "
            "like) are missing or empty; put them beside config.json"
        )
    ids = [*words.values(), *(getattr(tokenizer, f"{token}_token_id") for token in _SPECIAL)]
    rows, largest = count_embeddings(model), max(id_ for id_ in ids if id_ is not None)
    if rows is not None and largest >= rows:
        raise UserError(
            f"backbone {quote(name)}: its tokenizer makes tokens up to {largest}, its model has embeddings of 0 to "
            f"{rows - 1}: they are not of one model"
        )


def count_embeddings(model: PreTrainedModel) -> int | None:
    """The number of tokens that have an embedding; None where the model has no table of them."""
    try:
        table: Any = model.get_input_embeddings()
    except NotImplementedError:
        return None
    return table.num_embeddings if isinstance(table, nn.Embedding) else None
