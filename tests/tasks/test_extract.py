"""The published rules on texts that models write: what is found, what is not, and what counts as right."""

import math

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks.extract import (
    extract_choice,
    extract_exact_choice,
    extract_letter,
    extract_number,
    make_answer_rule,
    number_matches,
    read_choices,
    require_findable,
)

ANSWERS = tuple(f"answer{i}" for i in range(1, 6))
TRIGGER = "the correct answer is "


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("the correct answer is answer3", ANSWERS, "answer3"),
        ("answer2 is better than answer1", ANSWERS, "answer2"),  # the first in the text, not in the list
        ("I think(answer1)because", ANSWERS, "answer1"),  # inside text
        ("The correct answer is: TRUE.", ("true", "false"), "true"),
        ("untrue, so false", ("true", "false"), "true"),  # inside a word: as published
        ("solution2\n", ("solution1", "solution2"), "solution2"),
        ("ending4 fits", ("ending1", "ending2", "ending3", "ending4"), "ending4"),
        ("Option1", ("option1", "option2"), "option1"),
        ("answer10", ("answer1", "answer10"), "answer10"),
        ("answer7", ANSWERS, None),
        ("the correct answer is ", ANSWERS, None),
        ("", ANSWERS, None),
        ("yes (a)", ("(A)", "(b)"), "(A)"),  # a choice's own characters are literal; it comes back as it was given
        ("a.c or abc", ("abc",), "abc"),
    ],
)
def test_the_first_choice_in_the_text(text, choices, expected):
    assert extract_choice(text, choices) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the correct answer is answer3", "answer3"),
        ("the correct answer is  answer3 \n", "answer3"),
        ("so the correct answer is answer1", "answer1"),
        ("the correct answer is answer1 the correct answer is answer2", None),  # the first trigger, and all behind it
        ("the correct answer is answer3.", None),
        ("the correct answer is Answer3", None),
        ("answer3", None),
        ("", None),
    ],
)
def test_loreft_asks_for_the_choice_and_nothing_else(text, expected):
    assert extract_exact_choice(text, ANSWERS, TRIGGER) == expected


def test_without_a_trigger_the_whole_text_is_the_choice():
    assert extract_exact_choice(" answer2", ANSWERS, "") == "answer2"
    assert extract_exact_choice("it is answer2", ANSWERS, "") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 18", 18.0),
        ("16 - 3 - 4 = 9 eggs, 9 * 2 = 18 dollars.", 18.0),  # several numbers: the last; the full stop is none of it
        ("It fell to -15.", -15.0),
        ("10-3", -3.0),  # as published
        ("$1,234,567.50", 1234567.5),
        ("1.8333333333333335", 1.8333333333333335),
        ("about .5", 5.0),  # as published
        ("#### 70,000", 70000.0),
        ("3.", 3.0),
        ("-", None),
        ("none at all", None),
        ("", None),
    ],
)
def test_the_last_number(text, expected):
    assert extract_number(text) == expected


@pytest.mark.parametrize(
    ("expected", "gold", "is_right"),
    [
        (2.0, "2.0", True),
        (2.0, "2", True),
        (2.0, " 2 ", True),
        (2.0009, "2", True),
        (1.9991, "2", True),
        (2.0011, "2", False),
        (-2.0, "2", False),
        (-15.0, "-15.0", True),
        (1000.0, "1,000", True),
        (1.833, "1.8333333333333335", True),
        (18.0, "She has 16 - 3 = 13 left, 13 + 5 = 18.\n#### 18", True),
        (13.0, "She has 16 - 3 = 13 left, 13 + 5 = 18.\n#### 18", False),
        (math.inf, "2", False),
        (None, "2", False),
    ],
)
def test_a_number_within_a_thousandth_is_right(expected, gold, is_right):
    assert number_matches(expected, gold) is is_right


@pytest.mark.parametrize("gold", ["C", "", "#### ", "nan", "inf", "2 apples"])
def test_a_gold_that_is_no_number_is_an_error(gold):
    with pytest.raises(UserError, match=r"task\.answer: expected a number, received"):
        number_matches(2.0, gold)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the answer is (D) 2.65", "D"),
        ("the answer is B, not C", "B"),
        ("Answer: C", "A"),  # inside a word: as published
        ("F or G", None),
        ("a, b, c", None),
        ("", None),
    ],
)
def test_the_first_letter(text, expected):
    assert extract_letter(text) == expected


@pytest.mark.parametrize(
    ("tail", "choices"),
    [
        ("true/false", ("true", "false")),
        ("answer1/answer2/answer3 \n", ("answer1", "answer2", "answer3")),
        ("ending1/ending2/ending3/ending4", ("ending1", "ending2", "ending3", "ending4")),
    ],
)
def test_choices_are_those_of_the_tail(tail, choices):
    assert read_choices(f"Which? Option1: a/b Answer format: x/y Option2: c/d Answer format: {tail}") == choices


@pytest.mark.parametrize(
    "instruction", ["", "Which?", "Answer format: a/b and more", "Answer format: one", "Answer format: a/a", "a/b"]
)
def test_an_instruction_without_choices_is_an_error(instruction):
    with pytest.raises(UserError, match=r"task\.choices") as error:
        read_choices(instruction)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("extract", "text", "gold", "is_right"),
    [
        ("number", "so 1,200 in all", "1200", True),
        ("number", "", "3", False),
        ("letter", "the answer is B", "b", True),
        ("choice", "i say no", "no", True),
        ("choice", "yes or no", "no", False),
        ("text", " Paris ", "paris", True),
    ],
)
def test_answers_are_found_by_the_rule_asked_for(extract, text, gold, is_right):
    assert make_answer_rule(extract, ("yes", "no"))(text, gold) is is_right


@pytest.mark.parametrize(
    ("extract", "gold"), [("number", "18"), ("number", "a #### 3"), ("letter", "c"), ("choice", "yes"), ("text", "-")]
)
def test_an_answer_that_its_rule_can_find(extract, gold):
    require_findable(gold, extract, ("yes", "no"))


@pytest.mark.parametrize(
    ("extract", "gold"), [("number", "three"), ("letter", "G"), ("letter", "AB"), ("choice", "Yes")]
)
def test_an_answer_that_its_rule_never_finds_is_an_error(extract, gold):
    with pytest.raises(UserError, match=rf"task\.answer: expected .*received '{gold}'"):
        require_findable(gold, extract, ("yes", "no"))
