"""Guided decoding: an answer that is JSON, follows a schema, a regular expression or a grammar, by llguidance.

Nothing here knows of requests or rows. A grammar says which tokens may come next, and when nothing more can: the end
of text is one of them only where the answer is complete.
"""

import json

import numpy as np
from request import BadRequest

# The names are TensorRT-LLM's (`GuidedDecodingParams.GuideType`). Its `json` is an object or a list.
FORMATS = {"json": "json_schema", "json_schema": "json_schema", "regex": "regex", "ebnf_grammar": "ebnf"}
ANY_JSON = '{"type": ["object", "array"]}'
MAX_GUIDE_BYTES = 65536
# What the library may spend on reading expressions, a tenth of its own limit: 0.3 s for (a{1000}){1000}, not 3 s.
FUEL = 100_000
# What is added to the logits of 8 tokens, by the bits of one byte of a mask, the lowest first.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
ADDED = np.where(_BITS, np.float32(0), np.float32(-np.inf))


class Grammars:
    """Makes grammars over the tokens of `tokenizer_file` (Hugging Face's tokenizer.json), `vocabulary` of them.

    Loading it takes a second, in which no other thread runs: it is done once, before there are any requests. Where it
    cannot be loaded, the requests that need it are refused.
    """

    def __init__(self, tokenizer_file, vocabulary, end_ids):
        self._end_ids, self._tokens, self._fault = frozenset(end_ids), None, None
        try:
            import llguidance

            self._library = llguidance
            self._tokens = llguidance.LLTokenizer(str(tokenizer_file), n_vocab=vocabulary, eos_token=[*end_ids])
        except (ImportError, ValueError) as error:  # not here; no file, or a tokenizer whose bytes it cannot tell
            self._fault = error

    def begin(self, kind, guide, end_ids=None):
        """Return the Grammar of a guide, given as TensorRT-LLM has it: `kind` and `guide`, UTF-8.

        Raises BadRequest: it is no guide, in the library's own words, or `end_ids` are not the checkpoint's.
        """
        if self._tokens is None:
            raise BadRequest(f"guided decoding is off for this model: {self._fault}")
        if end_ids is not None and not self._end_ids.issuperset(end_ids):
            raise BadRequest(f"end_id is {min(end_ids)}, but a guide says where the answer ends; leave end_id out")
        form = FORMATS.get(_text(kind, "guided_decoding_guide_type"))
        if form is None:
            known, found = ", ".join(FORMATS), f"is '{_text(kind, '')[:40]}'" if kind else "is missing"
            raise BadRequest(f"guided_decoding_guide_type {found}; give one of {known}")
        limits = self._library.LLParserLimits(initial_lexer_fuel=FUEL)
        matcher = self._library.LLMatcher(self._tokens, self._read(kind, form, guide), log_level=0, limits=limits)
        if matcher.is_error():
            raise BadRequest(f"guided_decoding_guide is refused: {matcher.get_error().strip()}")
        return Grammar(matcher)

    def _read(self, kind, form, guide):
        if kind == b"json" and not guide:
            guide = ANY_JSON.encode()
        if not 1 <= len(guide) <= MAX_GUIDE_BYTES:
            raise BadRequest(f"guided_decoding_guide has {len(guide)} bytes; send 1 to {MAX_GUIDE_BYTES}")
        text = _text(guide, "guided_decoding_guide")
        try:
            if form == "json_schema":
                json.loads(text)  # the library's words for bad JSON count columns of a text of its own
            return self._library.grammar_from(form, text)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"guided_decoding_guide is refused: {error}") from None


class Grammar:
    """One answer's place in its grammar.

    What may come first is looked up at once, before there is a row: that is what takes long with a bad expression, and
    no step of the engine shall. (The library works without Python's lock, and bounds what a later token may cost.)
    """

    def __init__(self, matcher):
        self._matcher, self._mask = matcher, matcher.compute_bitmask()

    @property
    def over(self):
        """The finish reason where nothing can follow: stop, error when the library broke off; None before."""
        if self._matcher.is_error():
            return "error"
        return "stop" if self._matcher.is_stopped() else None

    def apply(self, logits):
        """Leave in `logits` FP32 [V] only what may come next."""
        mask = np.frombuffer(self._mask or self._matcher.compute_bitmask(), np.uint8)
        self._mask = None
        np.add(logits, ADDED.take(mask, axis=0).reshape(-1)[: len(logits)], out=logits)

    def add(self, token):
        """Go on by `token`."""
        self._matcher.consume_token(token)


def _text(value, name):
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name} is not UTF-8: byte 0x{value[error.start]:02x} at position {error.start}") from None
