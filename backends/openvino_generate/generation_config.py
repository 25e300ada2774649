"""How a token is chosen, in the words of OpenVINO GenAI's GenerationConfig; what it cannot do is refused. Pure."""

import secrets

from request import BadRequest
from terms import NO_TERMS

# What the library has no word for -> what it would have to be.
REFUSED = {
    "min_p": 0.0,
    "logit_bias": {},
    "bad_ids": (),
    "top_logprobs": 0,
}
# What its Python binding takes of a seed.
SEED_BITS = 63
NAMES = {"bad_ids": "bad_words_list", "logit_bias": "embedding_bias"}


def require_carried(settings, terms=NO_TERMS):
    """Raise BadRequest where `settings` ask for what the library cannot do, or `terms` for another order."""
    if (terms.priority_level, terms.tenant) != (NO_TERMS.priority_level, NO_TERMS.tenant):
        raise BadRequest(
            "priority_level and tenant are not carried by the engine of this model, OpenVINO GenAI: requests start in "
            "order of arrival; leave them out"
        )
    for name, neutral in REFUSED.items():
        value = getattr(settings, name)
        if value is not None and value != neutral:
            raise BadRequest(
                f"{NAMES.get(name, name)} is not carried by the engine of this model, OpenVINO GenAI; leave it out, or "
                "serve the model with onnx_generate"
            )


def arguments(settings, limit, end_ids, place=0):
    """Return the keywords of a GenerationConfig for the answer at `place`, of at most `limit` tokens.

    Stop words are not among them: the library knows single tokens alone.
    """
    found = {
        "max_new_tokens": limit,
        "min_new_tokens": settings.min_tokens,
        "stop_token_ids": set(end_ids),
        # It wants some, also where none is to end anything.
        "eos_token_id": min(end_ids, default=0),
        "ignore_eos": not end_ids,
        "repetition_penalty": settings.repetition_penalty,
        "presence_penalty": settings.presence_penalty,
        "frequency_penalty": settings.frequency_penalty,
        "logprobs": int(settings.has_log_probs),
        "apply_chat_template": False,
    }
    return found | ({"do_sample": False} if settings.is_greedy else _drawn(settings, place))


def _drawn(settings, place):
    """The keywords of a draw. Without a seed of ours the library would take 0 each time."""
    seed = secrets.randbits(SEED_BITS) if settings.seed is None else settings.seed + place
    found = {
        "do_sample": True,
        "rng_seed": seed % 2**SEED_BITS,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
    }
    found["top_k"] = settings.top_k or None
    return {name: value for name, value in found.items() if value is not None}
