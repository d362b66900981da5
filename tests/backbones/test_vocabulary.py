"""A tokenizer is the model's own: it knows words, and the model knows its tokens."""

import pytest
from tokenizers import Tokenizer, models
from torch import nn
from transformers import PreTrainedTokenizerFast

from fedpeft.backbones.vocabulary import count_embeddings, require_vocabulary
from fedpeft.errors import UserError


class Model:
    def __init__(self, rows):
        self.table = nn.Embedding(rows, 1)

    def get_input_embeddings(self):
        return self.table


class Untabled:
    def get_input_embeddings(self):
        raise NotImplementedError


def make_tokenizer(words, added=(), **special):
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")), unk_token="[UNK]", **special
    )
    tokenizer.add_tokens(list(added))
    return tokenizer


@pytest.mark.parametrize("words", [["[UNK]"], ["[UNK]", "[PAD]"], ["[UNK]", "\u2581"], ["[UNK]", "[PAD]", "."]])
def test_a_tokenizer_without_words_is_refused(words):
    with pytest.raises(UserError, match="'tiny' has a tokenizer without words"):
        require_vocabulary("tiny", make_tokenizer(words, pad_token="[PAD]"), Model(9))


def test_one_word_or_character_is_a_vocabulary():
    for word in ("good", "g", "\u6f22", "7"):
        require_vocabulary("tiny", make_tokenizer(["[UNK]", word]), Model(2))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused():
    tokenizer = make_tokenizer(["[UNK]", "good", "bad"])
    require_vocabulary("tiny", tokenizer, Model(3))
    require_vocabulary("tiny", tokenizer, Untabled())
    with pytest.raises(UserError, match="tokens up to 2, its model has embeddings of 0 to 1"):
        require_vocabulary("tiny", tokenizer, Model(2))


def test_a_token_that_no_text_needs_may_lie_outside():
    """Gemma 3's tokenizer has an image token that its text models have no embedding for; every batch needs padding."""
    tokenizer = make_tokenizer(["[UNK]", "good"], added=["<image>"])
    require_vocabulary("tiny", tokenizer, Model(2))
    tokenizer.pad_token = "<image>"
    with pytest.raises(UserError, match="tokens up to 2"):
        require_vocabulary("tiny", tokenizer, Model(2))


def test_a_model_without_a_table_has_no_count():
    assert count_embeddings(Model(5)) == 5 and count_embeddings(Untabled()) is None
