"""What a decoder reads and writes: the template around a text, and prompt, target and choices as token ids."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fedpeft.errors import UserError
from fedpeft.tasks.encode import Encoded
from fedpeft.tasks.examples import Example

if TYPE_CHECKING:
    from fedpeft.tasks.config import TaskConfig


def make_prompt_function(task: "TaskConfig", tokenizer: Any) -> Callable[[Example], str]:
    """The task's templates as a function from a row to its prompt. Raises UserError for 'chat' where the tokenizer has
    no such template."""
    if task.template != "chat":
        return lambda row: render(task, row.text, row.text_pair)
    if not tokenizer.chat_template:
        raise UserError("task.template: this model's tokenizer has no chat template; write one with {text} in it")

    def chat(row: Example) -> str:
        turns = [{"role": "user", "content": row.text if row.text_pair is None else f"{row.text}\n{row.text_pair}"}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    return chat


def render(task: "TaskConfig", text: str, pair: str | None) -> str:
    """The template around a text; a second text goes below the first where no template is there for both."""
    if pair is None:
        return task.template.replace("{text}", text)
    if task.template_pair is None:
        return task.template.replace("{text}", f"{text}\n{pair}")
    before, _, after = task.template_pair.partition("{text_pair}")  # one after the other: a text may hold braces
    return before.replace("{text}", text) + pair + after.replace("{text}", text)


def encode_prompts(
    examples: Sequence[Example], tokenizer: Any, max_length: int, prompt: Callable[[Example], str]
) -> list[Encoded]:
    """Prompt, target and choices as token ids. What exceeds `max_length` is taken from the prompt's beginning.

    The target keeps up to half of `max_length`, more where the prompt leaves room. A prompt's own first token that
    begins every text (BOS) stays. Prompt and target are tokenised apart, so that the prompt is the same in training
    and generation [choice]. Choices have no end token, but where one begins another: "1" is always likelier than "10".
    """
    return [_encode_prompt(example, tokenizer, max_length, prompt(example)) for example in examples]


def _encode_prompt(example: Example, tokenizer: Any, max_length: int, prompt: str) -> Encoded:
    def plain(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    given = tokenizer(prompt)["input_ids"]
    if tokenizer.eos_token_id is not None and given[-1:] == [tokenizer.eos_token_id]:
        given = given[:-1]  # some tokenizers end every text; the answer is still to come
    if tokenizer.bos_token_id is not None and given[:2] == [tokenizer.bos_token_id] * 2:
        given = given[1:]  # a chat template brings its own
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    target = plain(example.target or "") + end
    start = (example.target or "").removesuffix(example.answer)
    choices = tuple(plain(start + choice) for choice in example.choices)
    if any(one != other and other[: len(one)] == one for one in choices for other in choices):
        choices = tuple(choice + end for choice in choices)
    longest = max([len(target), *(len(choice + end) for choice in choices)])  # a choice's length must tell nothing
    room = max(max_length - longest, max_length - max_length // 2)
    whole = len(given) + len(target)
    if len(given) > room:
        first = given[:1] if given[0] == tokenizer.bos_token_id else []
        given = first + given[len(given) - room + len(first) :]
    target = target[: max_length - len(given)]
    gold = example.choices.index(example.answer) if example.choices else 0
    cut = len(given) + len(target) < whole
    return Encoded(tuple(given), gold, target, choices, example.choices, example.answer, cut)
