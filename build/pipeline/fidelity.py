"""The quality gate of a decoder: an engine must say what its checkpoint says, token for token.

Perplexity on the shipped prose, and agreement with the checkpoint's own greedy answers to the shipped prompts, both
teacher-forced: one wrong token does not make the rest of an answer wrong.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.greedy import GreedyDecoder
from pipeline.onnx_decoder import load_tokenizer
from pipeline.onnx_encoder import TOKENIZER
from pipeline.recipe import GenerateGate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

TEXTS = Path(__file__).parent / "texts"
PROSE = "prose.txt"
PROMPTS = "prompts.txt"
ANSWER_TOKENS = 80
PASSAGE_TOKENS = 256
ROWS = 4
# The golden answer is short enough to be there at once.
GOLDEN_TOKENS = 16


class PlainDecoder(Protocol):
    """The plainest loop over an engine, whatever its kind; `greedy.GreedyDecoder` says what each does."""

    def teacher_forced(self, texts: Sequence[Sequence[int]], prompt: bool = False) -> "Iterator[NDArray[np.float32]]":
        """Yield the logits FP32 [rows, V] behind each position of `texts`."""

    def answering(self, prompt: Sequence[int], answer: Sequence[int]) -> "Iterator[NDArray[np.float32]]":
        """Yield the logits FP32 [V] before each token of `answer`."""

    def generate_greedy(self, ids: Sequence[int], max_tokens: int, end_ids: Collection[int]) -> list[int]:
        """Continue the prompt `ids`."""


# How an engine is opened: its folder, the rows, and the tokens of each.
Opener = Callable[[Path, int, int], PlainDecoder]


@dataclass(frozen=True)
class Fidelity:
    """How far an engine is from its PyTorch reference.

    Perplexities over `prose_tokens` predicted tokens; `greedy_agreement` is the share of `answer_tokens` that the
    engine would have chosen too; `max_logit_difference` over every logit of both.
    """

    prose_tokens: int
    perplexity: float
    checkpoint_perplexity: float
    answer_tokens: int
    greedy_agreement: float
    max_logit_difference: float

    @property
    def perplexity_increase(self) -> float:
        """The engine's perplexity over the checkpoint's, less one."""
        return self.perplexity / self.checkpoint_perplexity - 1


@dataclass(frozen=True)
class Answer:
    """A shipped prompt as the model sees it, and the checkpoint's greedy answer with its end token, if it came."""

    request: dict[str, Any]
    prompt: list[int]
    answer: list[int]


def misses(fidelity: Fidelity, gate: GenerateGate) -> list[str]:
    """Return, in words and figures, each limit of `gate` that `fidelity` misses; NaN misses all."""
    found = []
    if not fidelity.perplexity_increase <= gate.max_perplexity_increase:
        found.append(
            f"perplexity {fidelity.perplexity:.2f} is {fidelity.perplexity_increase:.1%} above the checkpoint's "
            f"{fidelity.checkpoint_perplexity:.2f}, allowed are {gate.max_perplexity_increase:.1%}"
        )
    if not fidelity.greedy_agreement >= gate.min_greedy_agreement:
        found.append(
            f"greedy agreement {fidelity.greedy_agreement:.1%} over {fidelity.answer_tokens} tokens is below the limit "
            f"{gate.min_greedy_agreement:.1%}"
        )
    if not fidelity.max_logit_difference <= gate.max_logit_difference:
        found.append(
            f"max logit difference {fidelity.max_logit_difference:.3g} is above the limit "
            f"{gate.max_logit_difference:.3g}"
        )
    return found


def load_reference(folder: Path) -> "PreTrainedModel":
    """Return the checkpoint as a PyTorch float32 model in evaluation mode: what every engine is proved against."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval()


def read_lines(name: str) -> list[str]:
    """Return the shipped passages or prompts, one a line."""
    return (TEXTS / name).read_text(encoding="utf-8").splitlines()


def answers(reference: "PreTrainedModel", folder: Path, facts: dict[str, Any], context: int) -> list[Answer]:
    """Return the reference's greedy answers to the shipped prompts, as messages where there is a chat template."""
    import torch
    from transformers import GenerationConfig

    tokenizer = load_tokenizer(folder)
    asked: list[tuple[dict[str, Any], list[int]]] = []
    for text in read_lines(PROMPTS):
        messages = [{"role": "user", "content": text}]
        if tokenizer.chat_template:
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            asked.append(({"messages": messages}, ids))
        else:
            asked.append(({"prompt": text}, tokenizer(text).input_ids))
    width = max(len(ids) for _, ids in asked)
    padded = torch.tensor([[facts["pad_id"]] * (width - len(ids)) + ids for _, ids in asked])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for _, ids in asked])
    # The checkpoint's own generation config may sample or penalise.
    reference.generation_config = GenerationConfig(
        max_new_tokens=min(ANSWER_TOKENS, context - width), eos_token_id=facts["end_ids"], pad_token_id=facts["pad_id"]
    )
    with torch.no_grad():
        rows = reference.generate(padded, attention_mask=mask)[:, width:].tolist()
    return [
        Answer(request, ids, _until_end(row, facts["end_ids"])) for (request, ids), row in zip(asked, rows, strict=True)
    ]


def _until_end(ids: list[int], end_ids: Sequence[int]) -> list[int]:
    """`ids` up to the first end token, which is kept."""
    return ids[: len(list(takewhile(lambda token: token not in end_ids, ids))) + 1]


def measure(
    reference: "PreTrainedModel",
    folder: Path,
    engine: Path,
    known: Sequence[Answer],
    context: int,
    opened: Opener = GreedyDecoder,
) -> Fidelity:
    """Run reference and engine over the shipped prose and over the `known` answers, each as it would be served.

    Prose is prompts, all through the engine's prefill graph if it has one; an answer is decoded behind its prompt.
    """
    tokenizer = load_tokenizer(folder)
    longest = min(PASSAGE_TOKENS, context)
    prose = [tokenizer(text).input_ids[:longest] for text in read_lines(PROSE)]
    losses: list[tuple[float, float]] = []
    hits: list[bool] = []
    worst = 0.0
    for token, want, have in _prose(reference, engine, prose, opened):
        worst = max(worst, float(abs(want - have).max()))
        losses.append((_loss(have, token), _loss(want, token)))
    for want, have in _answered(reference, engine, known, opened):
        worst = max(worst, float(abs(want - have).max()))
        hits.append(bool(want.argmax() == have.argmax()))
    engine_loss, reference_loss = (sum(column) / len(losses) for column in zip(*losses, strict=True))
    return Fidelity(
        prose_tokens=len(losses),
        perplexity=math.exp(engine_loss),
        checkpoint_perplexity=math.exp(reference_loss),
        answer_tokens=len(hits),
        greedy_agreement=sum(hits) / len(hits),
        max_logit_difference=worst,
    )


def _prose(
    reference: "PreTrainedModel", engine: Path, texts: Sequence[list[int]], opened: Opener
) -> Iterator[tuple[int, Any, Any]]:
    """Of each position of each text: the next token, and before it the reference's logits [V] and the engine's."""
    decoder = opened(engine, ROWS, max(map(len, texts)))
    ordered = sorted(texts, key=len)  # rows of one group end together
    for group in (ordered[start : start + ROWS] for start in range(0, len(ordered), ROWS)):
        wanted = [_logits(reference, ids) for ids in group]
        for position, logits in enumerate(decoder.teacher_forced(group, prompt=True)):
            for ids, want, have in zip(group, wanted, logits, strict=False):
                if position < len(ids) - 1:
                    yield ids[position + 1], want[position], have


def _answered(
    reference: "PreTrainedModel", engine: Path, known: Sequence[Answer], opened: Opener
) -> Iterator[tuple[Any, Any]]:
    """Of each token of each answer: the reference's logits [V] before it, and the engine's."""
    decoder = opened(engine, 1, max(len(each.prompt) + len(each.answer) for each in known))
    for each in known:
        wanted = _logits(reference, each.prompt + each.answer)[len(each.prompt) - 1 :]
        yield from zip(wanted, decoder.answering(each.prompt, each.answer), strict=False)


def _logits(reference: "PreTrainedModel", ids: list[int]) -> Any:
    """The reference's logits FP32 [len(ids), V]."""
    import torch

    with torch.no_grad():
        return reference(torch.tensor([ids])).logits[0].numpy()


def _loss(logits: Any, token: int) -> float:
    """The negative log likelihood of `token` under `logits` [V]."""
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max()
    return float(np.log(np.exp(shifted).sum()) - shifted[token])


def golden(
    engine: Path, known: Sequence[Answer], facts: dict[str, Any], max_tokens: int, opened: Opener = GreedyDecoder
) -> dict[str, Any]:
    """Return the request that a served model must answer right before its server counts as ready.

    Of the shipped prompts the one on whose first tokens engine and reference agree longest: `max_tokens` of them, which
    say `text`; 0 when they agree on none, or no prompt fits into the model's own `max_tokens`.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(engine / TOKENIZER))
    decoder = opened(engine, 1, max(len(each.prompt) for each in known) + GOLDEN_TOKENS)
    best: dict[str, Any] = {"max_tokens": 0, "text": ""}
    for each in known:
        if len(each.prompt) + GOLDEN_TOKENS > max_tokens:
            continue
        said = decoder.generate_greedy(each.prompt, GOLDEN_TOKENS, facts["end_ids"])
        pairs = zip(said, each.answer, strict=False)
        agreed = [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
        while agreed and tokenizer.decode(agreed).endswith("\ufffd"):
            agreed.pop()  # in the middle of a character
        if len(agreed) > best["max_tokens"]:
            best = {**each.request, "max_tokens": len(agreed), "text": tokenizer.decode(agreed)}
    return best
