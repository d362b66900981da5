"""From a row to what a decoder reads and writes: prompt, target, answer, choices."""

from collections.abc import Callable
from typing import Any

from fedpeft.errors import UserError
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.examples import Example
from fedpeft.tasks.extract import read_choices, require_findable

DECODER_KINDS = ("multiple_choice", "generation")


def make_example(row: dict[str, Any], text: str, pair: str | None, task: TaskConfig, labels: dict[str, int]) -> Example:
    """One row of a decoder's task; `labels` gives answers an index, by which rows are dealt to clients.

    multiple_choice: learns trigger + answer, and the choices are candidates for the place of the answer. generation:
    learns the target column, without the space around it [choice]. Raises UserError where the answer is empty, none of
    the choices or nothing that the rule of scoring can find.
    """
    answer = read_answer(row, task)
    if task.kind == "generation":
        target = str(row[task.target]).strip()
        if not target:
            raise UserError(f"{row['@where']}: the target (column {task.target!r}) is empty; fill it or remove the row")
        try:
            require_findable(answer, task.extract, task.choices or ())
        except UserError as error:
            raise UserError(f"{row['@where']}: {error}") from error
        return Example(text, 0, pair, target=target, answer=answer)
    choices = tuple(task.choices) if task.choices else read_choices(text)
    if answer not in choices:
        raise UserError(f"{row['@where']}: the answer {answer!r} is none of the choices {', '.join(choices)}")
    index = labels.get(answer, 0)  # a newcomer may know an answer that nobody had
    return Example(text, index, pair, target=task.trigger + answer, answer=answer, choices=choices)


def read_answer(row: dict[str, Any], task: TaskConfig) -> str:
    """The right answer as text. Raises UserError where it is empty."""
    answer = "" if row[task.answer] is None else str(row[task.answer]).strip()
    if not answer:
        raise UserError(f"{row['@where']}: the answer (column {task.answer!r}) is empty; fill it or remove the row")
    return answer


def make_prompt_function(task: TaskConfig, tokenizer: Any) -> Callable[[Example], str]:
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


def render(task: TaskConfig, text: str, pair: str | None) -> str:
    """The template around a text; a second text goes below the first where no template is there for both."""
    if pair is None:
        return task.template.replace("{text}", text)
    if task.template_pair is None:
        return task.template.replace("{text}", f"{text}\n{pair}")
    before, _, after = task.template_pair.partition("{text_pair}")  # one after the other: a text may hold braces
    return before.replace("{text}", text) + pair + after.replace("{text}", text)
