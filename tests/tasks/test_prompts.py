"""Templates around texts, and prompts, targets and choices as token ids."""

import copy
from dataclasses import replace

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks import prompts
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.examples import Example
from fedpeft.tasks.prompts import encode_prompts, make_prompt_function


def make_prompt(tokenizer=None, **keys):
    return make_prompt_function(TaskConfig(source="x", kind="generation", **keys), tokenizer)


def get_text(example):
    return example.text


def test_a_template_is_filled_with_the_texts_as_they_stand():
    prompt = make_prompt(template="Q {text}\nA", template_pair="Q {text} I {text_pair} A")
    assert prompt(Example("one {text_pair}", 0)) == "Q one {text_pair}\nA"
    assert prompt(Example("one", 0, "two {text}")) == "Q one I two {text} A"
    assert make_prompt()(Example("one", 0, "two")) == "one\ntwo\n"  # no template for pairs: one text below the other


def test_chat_is_the_tokenizers_own_template(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<say>"
    chat = make_prompt(tokenizer, template="chat")
    assert chat(Example("one", 0)) == "<user>one<say>"
    assert chat(Example("one", 0, "two")) == "<user>one\ntwo<say>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages.__class__.__mro__ }}", r"fails \(SecurityError: access to attribute '__class__'"),
        ("{{ cycler.__init__.__globals__.os.system('touch pwned') }}", r"fails \(SecurityError"),
        ("{{ raise_exception('no system role') }}", r"fails \(TemplateError: no system role\)"),
        ("{% for i in range(10**9) %}x{% endfor %}", r"fails \(OverflowError: Range too big"),
        ("{{ messages[5].content }}", r"fails \(UndefinedError"),
        ("{% if %}", r"fails \(TemplateSyntaxError"),
        ("{{ 1 / 0 }}", r"fails \(ZeroDivisionError"),
        ("{{ bos_token }}", "leaves the text out"),
    ],
)
def test_a_strangers_chat_template_that_fails_is_one_line(tokenizer, template, reason):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    chat = make_prompt(tokenizer, template="chat")
    with pytest.raises(UserError, match=rf"^task\.template: the chat template of this model {reason}"):
        chat(Example("one", 0))


def test_a_strangers_chat_template_without_an_end_is_one_line(tokenizer, monkeypatch):
    tokenizer = copy.deepcopy(tokenizer)
    monkeypatch.setattr(prompts, "TEMPLATE_SECONDS", 0.2)
    loops = "".join(f"{{% for i{depth} in range(99999) %}}" for depth in range(3))  # the sandbox allows 100,000 each
    tokenizer.chat_template = loops + "{% endfor %}" * 3 + "{{ messages[0].content }}"
    with pytest.raises(UserError, match=r"fails \(TimeoutError: it takes more than 0\.2 s\)"):
        make_prompt(tokenizer, template="chat")(Example("one", 0))


HOSTILE = (
    "{0.__class__}",
    "{text.__class__.__mro__}",
    "{x:>1000000000}",
    "{text:>1000000000}",
    "%1000000000s",
    "{",
    "}{",
)


@pytest.mark.parametrize("piece", HOSTILE)
def test_braces_in_templates_and_texts_are_characters(piece):
    """Nothing is formatted: no attribute is reached, no width is filled."""
    prompt = make_prompt(template="{text}" + piece, template_pair=piece + "{text}{text_pair}")
    assert prompt(Example("one", 0)) == "one" + piece
    assert prompt(Example(piece, 0)) == piece + piece
    assert prompt(Example("one", 0, piece)) == piece + "one" + piece


def test_a_long_prompt_loses_its_beginning_and_the_target_stays(tokenizer):
    long = Example("good " * 40 + "bad", 0, target="answer is yes", answer="yes", choices=("yes", "no"))
    (row,) = encode_prompts([long], tokenizer, 12, get_text)
    bad, good = tokenizer("bad")["input_ids"][0], tokenizer("good")["input_ids"][0]
    assert row.input_ids == (good,) * 7 + (bad,)
    assert row.length == 12
    (short,) = encode_prompts([Example("good", 0, target="bad " * 40)], tokenizer, 12, get_text)
    assert (len(short.input_ids), len(short.target)) == (1, 11)


def test_a_target_gives_way_at_half_the_length(tokenizer):
    (row,) = encode_prompts([Example("good " * 40, 0, target="bad " * 40)], tokenizer, 12, get_text)
    assert (len(row.input_ids), len(row.target)) == (6, 6)


def test_an_example_that_was_cut_says_so(tokenizer):
    examples = [Example("good " * n, 0, target="bad", answer="bad", choices=("bad", "dull film")) for n in (6, 9)]
    whole, cut = encode_prompts(examples, tokenizer, 10, get_text)
    assert (whole.is_cut, cut.is_cut) == (False, True)
    assert (len(whole.input_ids), len(cut.input_ids)) == (6, 7)  # room for the longest choice and the end
    longer = replace(examples[1], answer="dull film", target="dull film")
    (other,) = encode_prompts([longer], tokenizer, 10, get_text)
    assert other.input_ids == cut.input_ids  # whichever is right: the prompt must not tell


def test_choices_stand_behind_what_comes_before_the_answer(tokenizer):
    example = Example("it was", 0, target="answer is yes", answer="yes", choices=("no", "yes"))
    (row,) = encode_prompts([example], tokenizer, 32, get_text)
    assert row.choices == tuple(tuple(tokenizer(text)["input_ids"]) for text in ("answer is no", "answer is yes"))
    assert (row.label, row.names, row.answer) == (1, ("no", "yes"), "yes")
    assert row.target == (*row.choices[1], tokenizer.eos_token_id)


def test_a_choice_that_begins_another_ends(tokenizer):
    """Without an end "good" would always be at least as likely as "good film"."""
    end = tokenizer.eos_token_id
    example = Example("it was", 1, target="good film", answer="good film", choices=("good", "good film"))
    apart = replace(example, choices=("bad", "good film"))
    ended, plain = encode_prompts([example, apart], tokenizer, 32, get_text)
    assert [choice[-1] == end for choice in ended.choices] == [True, True]
    assert not any(end in choice for choice in plain.choices)


class SpecialTokens:
    """A tokenizer that begins texts with 1 and ends them with 2; a word of a digit is that digit."""

    bos_token_id, eos_token_id = 1, 2

    def __call__(self, text, add_special_tokens=True):
        ids = [int(word) for word in text.split()]
        return {"input_ids": [1, *ids, 2] if add_special_tokens else ids}


@pytest.mark.parametrize(
    ("text", "max_length", "prompt"),
    [
        ("5 6 7", 32, (1, 5, 6, 7)),  # no end before the target
        ("1 5 6", 32, (1, 5, 6)),  # a chat template brings its own beginning: not two
        ("5 6 7 8 9", 6, (1, 7, 8, 9)),  # the beginning stays where the prompt is cut
    ],
)
def test_a_prompt_begins_as_every_text_does_and_does_not_end(text, max_length, prompt):
    (row,) = encode_prompts([Example(text, 0, target="4")], SpecialTokens(), max_length, get_text)
    assert (row.input_ids, row.target) == (prompt, (4, 2))
    assert row.is_cut == (len(prompt) < len(text.split()))


def test_without_a_target_there_is_only_the_end(tokenizer):
    (row,) = encode_prompts([Example("good", 0)], tokenizer, 8, get_text)
    assert row.target == (tokenizer.eos_token_id,)
