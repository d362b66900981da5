"""From generated text to an answer, and whether it is right, by the published rules of the reasoning tasks.

The rules are those of LLM-Adapters (arXiv 2304.01933) and LoReFT (arXiv 2404.03592), read in their evaluation code.
They agree on numbers and letters. On commonsense they differ: LLM-Adapters takes the first choice that occurs anywhere
in the generation (`extract_choice`); LoReFT takes what stands after "the correct answer is " and asks that it be the
answer and nothing else (`extract_exact_choice`). FedReFT's (arXiv 2508.20295) is LoReFT's task set-up.

`text` is what the model generated, without the prompt, everywhere here; `gold` is the right answer.
"""

import math
import re
from collections.abc import Callable, Sequence

from fedpeft.errors import UserError

AnswerRule = Callable[[str, str], bool]  # of the generated text and the right answer
LETTERS = "ABCDE"
TOLERANCE = 1e-3  # how far a number may be from the gold one, in both publications
_NUMBER = re.compile(r"-?\d+\.?\d*")
_FORMAT = re.compile(r"Answer format:\s*(\S+)\s*$")


def extract_choice(text: str, choices: Sequence[str]) -> str | None:
    """The first of the choices that occurs in the text, also inside a word; None when none does (LLM-Adapters).

    Where two begin at one place the longer wins, so that "answer10" is not read as "answer1". Case does not matter
    (ours [choice]: the published match minds it; all published choices are lower-case).
    """
    longest_first = sorted(choices, key=len, reverse=True)
    match = re.search("|".join(re.escape(choice.lower()) for choice in longest_first), text.lower())
    return None if match is None else next(choice for choice in longest_first if choice.lower() == match[0])


def extract_exact_choice(text: str, choices: Sequence[str], trigger: str) -> str | None:
    """The choice that is all there is behind the first trigger, spaces aside; None otherwise (LoReFT).

    Without the trigger in the text there is no answer. An empty trigger: the whole text must be the choice.
    """
    if trigger not in text:
        return None
    answer = (text.partition(trigger)[2] if trigger else text).strip()
    return answer if answer in choices else None


def extract_number(text: str) -> float | None:
    """The last number in the text, its commas removed; None when there is none (LLM-Adapters, LoReFT).

    A minus directly before a digit is a sign, so "10-3" ends with -3; a full stop at the end belongs to nothing; ".5"
    reads as 5. All three as published.
    """
    numbers = _NUMBER.findall(text.replace(",", ""))
    return float(numbers[-1]) if numbers else None


def read_gold_number(gold: str) -> float:
    """A number ("2", "2.0", "1,000") or, as GSM8K has it, a rationale whose answer follows "####". Raises UserError."""
    answer = gold.rpartition("####")[2].strip()
    try:
        value = float(answer.replace(",", ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(
            f"task.answer: expected a number, received {answer!r}; use extract: letter or choice for others"
        )
    return value


def number_matches(number: float | None, gold: str) -> bool:
    """Whether a number is within TOLERANCE of the gold one, as `read_gold_number` reads it."""
    gold_number = read_gold_number(gold)
    return number is not None and abs(number - gold_number) <= TOLERANCE


def extract_letter(text: str) -> str | None:
    """The first capital A to E anywhere in the text, also inside a word; None when there is none (AQuA, LoReFT).

    So "Answer: C" reads as A. LoReFT's authors note that the rule is ambiguous, and keep it; so do we.
    """
    match = re.search(f"[{LETTERS}]", text)
    return None if match is None else match[0]


def make_answer_rule(extract: str, choices: Sequence[str]) -> AnswerRule:
    """Whether a generated text holds the right answer: by number, letter, first choice or the whole text."""
    rules: dict[str, AnswerRule] = {
        "number": lambda text, gold: number_matches(extract_number(text), gold),
        "letter": lambda text, gold: extract_letter(text) == gold.upper(),
        "choice": lambda text, gold: extract_choice(text, choices) == gold,
        "text": lambda text, gold: text.strip().casefold() == gold.strip().casefold(),
    }
    return rules[extract]


def require_findable(gold: str, extract: str, choices: Sequence[str]) -> None:
    """Raises UserError for a right answer that its rule finds in no text: every model would score 0 on it."""
    if extract == "number":
        read_gold_number(gold)
    if extract == "letter" and (len(gold) != 1 or gold.upper() not in LETTERS):
        raise UserError(f"task.answer: expected a letter A to E, received {gold!r}; use extract: choice for others")
    if extract == "choice" and gold not in choices:
        raise UserError(f"task.answer: expected one of the choices {', '.join(choices)}, received {gold!r}")


def read_choices(instruction: str) -> tuple[str, ...]:
    """The choices that an instruction of LLM-Adapters names in its tail "Answer format: a/b/c". Raises UserError."""
    match = _FORMAT.search(instruction)
    choices = tuple(choice for choice in match[1].split("/") if choice) if match else ()
    if len(set(choices)) < 2 or len(set(choices)) < len(choices):
        raise UserError(
            'task.choices: expected an instruction that ends in "Answer format: a/b/c", '
            f"received {instruction[-60:]!r}; list the choices in task.choices"
        )
    return choices
