"""What decoders' kinds of task share: prompts, losses, predictions."""

import pytest
from helpers.decoding import EXAMPLES, PADDING

from fedpeft.errors import UserError
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import collate
from fedpeft.tasks.kinds import find_kind, make_task
from fedpeft.tasks.kinds.common.token_losses import compute_token_losses
from fedpeft.tasks.kinds.common.writing import generate


def make_decoder_task(tokenizer, **keys):
    config = TaskConfig(source="rows.jsonl", kind="generation", max_new_tokens=5, **keys)
    return make_task(config, ["generation"], tokenizer, 32)


@pytest.mark.parametrize("kind", ["generation", "multiple_choice"])
def test_decoders_read_long_prompts_and_pairs_may_be_empty(kind):
    kind = find_kind(kind)
    assert kind.is_decoder and kind.pair_is_optional and kind.default_max_length == 512
    assert kind.cut_loses == "a prompt loses its beginning"


def test_examples_are_encoded_with_the_tasks_template(tokenizer):
    (row,) = make_decoder_task(tokenizer, template="answer {text} :").encode(EXAMPLES[1:2])
    assert row.input_ids == tuple(tokenizer("answer dull :")["input_ids"])


def test_a_chat_template_that_is_not_there_is_one_line(tokenizer):
    with pytest.raises(UserError, match="no chat template"):
        make_decoder_task(tokenizer, template="chat")


def test_losses_are_those_of_the_targets(decoder, encoded, tokenizer):
    batch = collate(encoded, PADDING)
    losses = make_decoder_task(tokenizer).losses(decoder, batch)
    assert losses.tolist() == compute_token_losses(decoder, batch).tolist()


def test_a_prediction_is_the_text_written(decoder, encoded, tokenizer):
    task = make_decoder_task(tokenizer)
    for options, most in (({}, 5), ({"new_tokens": 2}, 2)):
        expected = [{"written": text} for text in generate(decoder, encoded, PADDING, tokenizer, most)]
        assert task.predict(decoder, encoded, PADDING, **options) == expected
