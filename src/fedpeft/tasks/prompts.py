"""From a row to what a decoder reads and writes: prompt, target, answer, choices."""

from collections.abc import Callable
from typing import Any

from fedpeft.errors import UserError
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.extract import choices_of
from fedpeft.tasks.types import Example

IS_DECODERS = ("multiple_choice", "generation")


def prompted(row: dict[str, Any], text: str, task: TaskConfig, labels: dict[str, int]) -> Example:
    """One row of a decoder's task; `labels` gives answers an index, by which rows are dealt to clients.

    multiple_choice: learns trigger + answer, and the choices are candidates for the place of the answer. generation:
    learns the target column. Raises UserError where the answer is empty or none of the choices.
    """
    answer = answer_of(row, task)
    if task.kind == "generation":
        target = str(row[task.target]).strip()
        if not target:
            raise UserError(f"{row['@where']}: the target (column {task.target!r}) is empty; fill it or remove the row")
        return Example(text, 0, target=target, answer=answer)
    choices = tuple(task.choices) if task.choices else choices_of(text)
    if answer not in choices:
        raise UserError(f"{row['@where']}: the answer {answer!r} is none of the choices {', '.join(choices)}")
    index = labels.get(answer, 0)  # a newcomer may know an answer that nobody had
    return Example(text, index, target=task.trigger + answer, answer=answer, choices=choices)


def answer_of(row: dict[str, Any], task: TaskConfig) -> str:
    """The right answer as text. Raises UserError where it is empty."""
    answer = "" if row[task.answer] is None else str(row[task.answer]).strip()
    if not answer:
        raise UserError(f"{row['@where']}: the answer (column {task.answer!r}) is empty; fill it or remove the row")
    return answer


def prompt_maker(template: str, tokenizer: Any) -> Callable[[str], str]:
    """The template as a function from a text to a prompt. Raises UserError for 'chat' where there is no such one."""
    if template != "chat":
        return lambda text: template.replace("{text}", text)
    if not tokenizer.chat_template:
        raise UserError("task.template: this model's tokenizer has no chat template; write one with {text} in it")

    def chat(text: str) -> str:
        turns = [{"role": "user", "content": text}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    return chat
