"""The sampler, held against the logits processors of transformers over real sizes of vocabularies."""

import numpy as np
import pytest
from choice import draw
from request import Settings
from sampler import Sampler

# Importing torch and transformers takes seconds.
pytestmark = pytest.mark.build

VOCABULARY = 49_152
END = 2


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    """What a model says: few large ones, a long tail, no equals."""
    return np.random.default_rng(1).gumbel(size=VOCABULARY).astype(np.float32) * 3


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.4},
        {"logit_bias": {100: 30.0, 101: -30.0, 7: 2.5}},
        {"bad_ids": ((5,), (7, 8), (8, 7, 9))},
        {"min_tokens": 4},
        {"repetition_penalty": 0.7, "logit_bias": {3: 9.0, END: 40.0}, "bad_ids": ((3,), (4, 4)), "min_tokens": 2},
    ],
)
def test_what_comes_before_the_draw_is_that_of_transformers(logits, asked) -> None:
    import torch
    from transformers.generation import logits_process as theirs

    prompt = [7, 8, 9, 4]
    ours = Sampler(Settings(**asked), prompt, end_ids=(END,))
    processors = (
        [theirs.SequenceBiasLogitsProcessor([[[id], value] for id, value in asked["logit_bias"].items()])]
        if ("logit_bias" in asked)
        else []
    )
    if "repetition_penalty" in asked:
        processors.append(theirs.RepetitionPenaltyLogitsProcessor(asked["repetition_penalty"]))
    if "bad_ids" in asked:
        processors.append(theirs.NoBadWordsLogitsProcessor([list(word) for word in asked["bad_ids"]], END))
    if "min_tokens" in asked:
        processors.append(theirs.MinNewTokensLengthLogitsProcessor(len(prompt), asked["min_tokens"], END))
    said = list(prompt)
    random = np.random.default_rng(2)
    for _ in range(12):
        step = logits + np.where(random.random(VOCABULARY) < 1e-4, np.float32(12), np.float32(0))
        step[[*said[-2:], 5, 8, 9, END]] += 20
        scores = theirs.LogitsProcessorList(processors)(torch.tensor([said]), torch.from_numpy(step.copy())[None])
        said.append(int(scores.argmax()))
        assert ours.next(step) == said[-1]


@pytest.mark.parametrize("temperature", [0.3, 1.7])
@pytest.mark.parametrize(
    "asked",
    [
        {"top_k": 40},
        {"top_p": 0.95},
        {"min_p": 0.02},
        {"top_k": 700, "top_p": 0.9},
        {"min_p": 0.001, "top_k": 30, "top_p": 0.6},
    ],
)
def test_the_draw_is_among_those_that_transformers_leaves_and_as_likely(logits, asked, temperature) -> None:
    import torch
    from transformers.generation import logits_process as theirs

    warpers = [theirs.TemperatureLogitsWarper(temperature)]
    warpers += [theirs.MinPLogitsWarper(asked["min_p"])] if "min_p" in asked else []
    warpers += [theirs.TopKLogitsWarper(asked["top_k"])] if "top_k" in asked else []
    warpers += [theirs.TopPLogitsWarper(asked["top_p"])] if "top_p" in asked else []
    scores = theirs.LogitsProcessorList(warpers)(torch.tensor([[0]]), torch.from_numpy(logits.copy())[None])
    want = torch.softmax(scores[0].double(), 0).numpy()
    # A ladder of draws: each falls on its token, and every step of it is one of theirs.
    tokens = [draw(logits.copy(), (step + 0.5) / 200, temperature, **asked) for step in range(200)]
    share = np.bincount(tokens, minlength=VOCABULARY) / 200
    assert np.abs(share - want).max() < 1.5 / 200
    assert (want[tokens] > 0).all()
