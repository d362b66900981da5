"""The LM evaluation harness on adapted models: `python -m fedpeft.lm_eval --model fedpeft ...`; see docs/lm_eval.md.

The harness scores answers by their likelihood and does not say where the prompt ends, so that LoReFT would edit the
last tokens of the answer, or padding. Here the prompt is what is edited, as in training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fedpeft.adapters.load import read_adapter
from fedpeft.backbones.locate import resolve_source
from fedpeft.errors import UserError
from fedpeft.tasks.encode import IGNORE, Padding, make_token_labels, pad_rows

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
except ImportError as error:  # no code of ours that shows a UserError as one line is running yet
    raise SystemExit("the LM evaluation harness is not installed. Run: pip install 'fedpeft[eval]'") from error

PADDING = Padding(0, "right")  # the id is masked
Request = tuple[Any, list[int], list[int]]  # (texts for the harness's cache, prompt, answer)


@register_model("fedpeft")
class AdaptedLM(HFLM):
    """The harness's Hugging Face model with likelihoods that know the prompt; it generates as the harness does.

    `pretrained` may be whatever an experiment's model may be, "package:..." included; `peft` is an adapter's folder.
    """

    def __init__(self, pretrained: str, peft: str | None = None, **options: Any) -> None:
        if peft is not None:
            read_adapter(Path(peft))  # raises UserError for one that is not ours: PEFT acts on what it reads
        super().__init__(pretrained=resolve_source(pretrained), peft=peft, **options)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """The sum of each answer's token log-probabilities, and whether greedy decoding would write the answer."""
        size = override_bs or (self.batch_size if isinstance(self.batch_size, int) else 1)  # "auto" is 1 here
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        scores: dict[int, tuple[float, bool]] = {}
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            scores.update(zip(chosen, self._score([requests[i][1:] for i in chosen]), strict=True))
            for i in chosen:
                if requests[i][0] is not None:  # perplexity's requests have no key
                    self.cache_hook.add_partial("loglikelihood", requests[i][0], scores[i])
        return [scores[i] for i in range(len(requests))]

    @torch.no_grad()
    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        texts = [(prompt + answer)[-self.max_length :] for prompt, answer in rows]
        targets = [(len(text) - len(answer), tuple(answer)) for text, (_, answer) in zip(texts, rows, strict=True)]
        batch = pad_rows(texts, PADDING)
        batch["labels"] = make_token_labels(targets, batch, PADDING)  # what stands before the first is the prompt
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        logits = self.model(**batch).logits[:, :-1]  # (rows, length - 1, vocabulary)
        labels = batch["labels"][:, 1:]  # (rows, length - 1)
        counts, ids = labels != IGNORE, labels.clamp(min=0)
        losses = torch.nn.functional.cross_entropy(logits.float().mT, ids, reduction="none")
        totals = -(losses * counts).sum(-1)
        is_greedy = ((logits.argmax(-1) == ids) | ~counts).all(-1)
        return list(zip(totals.tolist(), is_greedy.tolist(), strict=True))


if __name__ == "__main__":
    try:
        cli_evaluate()
    except UserError as error:
        raise SystemExit(str(error)) from error
