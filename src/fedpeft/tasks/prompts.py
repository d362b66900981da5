"""What a decoder reads and writes: the template around a text, and prompt, target and choices as token ids."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fedpeft.errors import UserError
from fedpeft.tasks.encode import Encoded
from fedpeft.tasks.examples import Example
from fedpeft.tasks.time_limit import call_within

if TYPE_CHECKING:
    from fedpeft.tasks.config import TaskConfig

TEMPLATE_SECONDS = (
    10.0  # for one text, where a template takes less than a millisecond; a sandbox's loops may be endless
)


def make_prompt_function(task: "TaskConfig", tokenizer: Any) -> Callable[[Example], str]:
    """The task's templates as a function from an example to its prompt.

    Raises UserError for the template 'chat' where the tokenizer has none of its own.
    """
    if task.template != "chat":
        return lambda example: render(task, example.text, example.text_pair)
    if not tokenizer.chat_template:
        raise UserError("task.template: this model's tokenizer has no chat template; write one with {text} in it")

    apply = tokenizer.apply_chat_template

    def render_chat(example: Example) -> str:
        text = example.text if example.text_pair is None else f"{example.text}\n{example.text_pair}"
        turns = [{"role": "user", "content": text}]
        try:
            prompt = str(
                call_within(TEMPLATE_SECONDS, lambda: apply(turns, tokenize=False, add_generation_prompt=True))
            )
        except Exception as error:  # the model's author wrote a program, which runs in a sandbox and fails in any way
            reason = f"fails ({type(error).__name__}: {error})"
        else:
            if text.strip() in prompt:
                return prompt
            reason = "leaves the text out"
        raise UserError(f"task.template: the chat template of this model {reason}; write one with {{text}} in it")

    return render_chat


def render(task: "TaskConfig", text: str, text_pair: str | None) -> str:
    """The template around a text; a second text goes below the first where no template is there for both."""
    if text_pair is None:
        return task.template.replace("{text}", text)
    if task.template_pair is None:
        return task.template.replace("{text}", f"{text}\n{text_pair}")
    before, _, after = task.template_pair.partition("{text_pair}")  # one after the other: a text may hold braces
    return before.replace("{text}", text) + text_pair + after.replace("{text}", text)


def encode_prompts(
    examples: Sequence[Example], tokenizer: Any, max_length: int, make_prompt: Callable[[Example], str]
) -> list[Encoded]:
    """Prompt, target and choices as token ids. What exceeds `max_length` is taken from the prompt's beginning.

    The target keeps up to half of `max_length`, more where the prompt leaves room. A prompt's own first token that
    begins every text (BOS) stays. Prompt and target are tokenised apart, so that the prompt is the same in training
    and generation [choice]. Choices have no end token, but where one begins another: "1" is always likelier than "10".
    """
    return [_encode_prompt(example, tokenizer, max_length, make_prompt(example)) for example in examples]


def _encode_prompt(example: Example, tokenizer: Any, max_length: int, text: str) -> Encoded:
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    prompt = _tokenize_prompt(tokenizer, text)
    target = _tokenize(tokenizer, example.target or "") + end
    choices = _tokenize_choices(tokenizer, example, end)
    longest = max([len(target), *(len(choice + end) for choice in choices)])  # a choice's length must tell nothing
    room = max(max_length - longest, max_length - max_length // 2)
    length = len(prompt) + len(target)  # before anything is cut
    if len(prompt) > room:
        first = prompt[:1] if prompt[0] == tokenizer.bos_token_id else ()
        prompt = first + prompt[len(prompt) - room + len(first) :]
    target = target[: max_length - len(prompt)]
    gold = example.choices.index(example.answer) if example.choices else 0
    is_cut = len(prompt) + len(target) < length
    return Encoded(prompt, gold, target, choices, example.choices, example.answer, is_cut)


def _tokenize_prompt(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The prompt's ids with the special tokens that begin a text and without those that end one."""
    ids = tuple(tokenizer(text)["input_ids"])
    if tokenizer.eos_token_id is not None and ids[-1:] == (tokenizer.eos_token_id,):
        ids = ids[:-1]  # some tokenizers end every text; the answer is still to come
    if tokenizer.bos_token_id is not None and ids[:2] == (tokenizer.bos_token_id,) * 2:
        ids = ids[1:]  # a chat template brings its own
    return ids


def _tokenize_choices(tokenizer: Any, example: Example, end: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Each choice behind what stands before the answer in the target; with the end where one choice begins another."""
    start = (example.target or "").removesuffix(example.answer)
    choices = tuple(_tokenize(tokenizer, start + choice) for choice in example.choices)
    if any(a != b and b[: len(a)] == a for a in choices for b in choices):
        return tuple(choice + end for choice in choices)
    return choices


def _tokenize(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
