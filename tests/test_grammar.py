"""Guided decoding: whatever the model would say, the answer follows its guide and ends where it is complete."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_detokenizer import tokenizer_of
from test_generate_engine import PlayedDecoder, wait_until
from tokenizers import Tokenizer, pre_tokenizers

from yard.checkout import BACKENDS

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BACKENDS / "onnx_generate")
    from engine import Engine, Generation
    from grammar import MAX_GUIDE_BYTES, Grammars
    from request import BadRequest, Settings
    from sampler import Sampler

TOKENIZER = Tokenizer.from_str(tokenizer_of("byte level").to_str())
TOKENIZER.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
VOCABULARY = TOKENIZER.get_vocab_size()
END = TOKENIZER.token_to_id("</s>")
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
        "name": {"type": "string", "maxLength": 5},
    },
    "required": ["colour", "sizes"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}


@pytest.fixture(scope="module")
def grammars(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    TOKENIZER.save(str(file))
    return Grammars(file, VOCABULARY, (END,))


def drawn(grammar: Any, seed: int, most: int = 400, **asked: Any) -> str:
    """What comes of drawing anything at all, every token as likely as every other, until the end."""
    sampler = Sampler(Settings(temperature=1.0, seed=seed, **asked), [1], end_ids=(END,), grammar=grammar)
    said: list[int] = []
    while not sampler.over and len(said) < most:
        token = sampler.next(np.zeros(VOCABULARY, np.float32))
        if token == END:
            assert sampler.over == "stop"
            break
        said.append(token)
    return str(TOKENIZER.decode(said))


@pytest.mark.parametrize("seed", range(8))
def test_json_follows_its_schema(grammars: Any, seed: int) -> None:
    found = json.loads(drawn(grammars.begin(b"json_schema", json.dumps(SCHEMA).encode()), seed))
    assert found["colour"] in ("red", "green", "blue")
    assert len(found["sizes"]) <= 3
    assert all(isinstance(size, int) and 0 <= size <= 99 for size in found["sizes"])
    assert len(found.get("name", "")) <= 5
    assert found.keys() <= {"colour", "sizes", "name"}


@pytest.mark.parametrize(
    ("kind", "guide", "pattern"),
    [
        (b"regex", rb"\d{3}-\d{4}", r"\d{3}-\d{4}"),
        (b"regex", rb"(yes|no)!?", r"(yes|no)!?"),
        (b"regex", "é{2,3}🙂".encode(), "é{2,3}🙂"),
        (b"ebnf_grammar", b'root ::= item ("," item){0,3}\nitem ::= [0-9]+ | "x"', r"([0-9]+|x)(,([0-9]+|x)){0,3}"),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_expressions_and_grammars_match_to_the_end(
    grammars: Any, kind: bytes, guide: bytes, pattern: str, seed: int
) -> None:
    assert re.fullmatch(pattern, drawn(grammars.begin(kind, guide), seed))


def test_json_alone_is_an_object_or_a_list(grammars: Any) -> None:
    sampler = Sampler(
        Settings(logit_bias={TOKENIZER.token_to_id("5"): 50.0}), [1], (END,), grammar=grammars.begin(b"json", b"")
    )
    assert TOKENIZER.decode([sampler.next(np.zeros(VOCABULARY, np.float32))]).strip(" \n\r\t") in ("", "{", "[")


def test_a_grammar_has_the_last_word(grammars: Any) -> None:
    """An end before min_tokens where nothing else may come, and a bad word where it is all that may."""
    letter = TOKENIZER.token_to_id("a")
    assert drawn(grammars.begin(b"regex", b"ab?"), 1, min_tokens=50) in ("a", "ab")
    assert drawn(grammars.begin(b"regex", b"a|b"), 1, bad_ids=((letter,),)) == "b"
    assert drawn(grammars.begin(b"regex", b"a"), 1, bad_ids=((letter,),)) == "a"
    assert drawn(grammars.begin(b"regex", b"a|b"), 1, logit_bias={letter: -100.0}) == "b"


def test_who_goes_astray_is_told_so(grammars: Any) -> None:
    grammar = grammars.begin(b"regex", b"a")
    assert grammar.over is None
    grammar.add(TOKENIZER.token_to_id("b"))
    assert grammar.over == "error"


REFUSED: dict[str, tuple[bytes, bytes, str]] = {
    "unknown kind": (b"xml", b"<a/>", "type is 'xml'; give one of json, json_schema, regex, ebnf_grammar"),
    "no kind": (b"", b"{}", "guided_decoding_guide_type is missing; give one of json"),
    "no guide": (b"regex", b"", f"guided_decoding_guide has 0 bytes; send 1 to {MAX_GUIDE_BYTES}"),
    "too long": (b"regex", b"a" * (MAX_GUIDE_BYTES + 1), "guided_decoding_guide has 65537 bytes"),
    "not JSON": (b"json_schema", b'{"type" 5}', "is refused: Expecting ':' delimiter: line 1 column 9"),
    "no schema": (b"json_schema", b'{"type": "objekt"}', "guided_decoding_guide is refused: Invalid type: objekt"),
    "nothing can follow it": (
        b"json_schema",
        b'{"minLength": 5, "maxLength": 2, "type": "string"}',
        "Unsatisfiable schema",
    ),
    "no expression": (b"regex", b"([", "unclosed character class"),
    "no grammar": (b"ebnf_grammar", b"root ::= [", "Unexpected end of input at line 1"),
    "not UTF-8": (b"regex", b"caf\xe9", "guided_decoding_guide is not UTF-8: byte 0xe9 at position 3"),
    "nested deeply": (b"json_schema", b"[" * 20000, "guided_decoding_guide is refused: "),
}


@pytest.mark.parametrize(("kind", "guide", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_guide_is_refused_in_the_librarys_words(
    grammars: Any, kind: bytes, guide: bytes, words: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        grammars.begin(kind, guide)
    assert words in str(refused.value)


def test_an_end_of_the_callers_own_is_refused(grammars: Any) -> None:
    grammars.begin(b"json", b"", (END,))
    grammars.begin(b"json", b"", ())
    with pytest.raises(BadRequest, match="end_id is 5, but a guide says where the answer ends; leave end_id out"):
        grammars.begin(b"json", b"", (5,))


def test_without_a_tokenizer_of_bytes_guided_decoding_is_off(tmp_path: Path) -> None:
    tokenizer_of("word piece").save(str(tmp_path / "words.json"))
    for name, words in (("words.json", "can't determine decoder type"), ("none.json", "none.json")):
        with pytest.raises(BadRequest, match=f"guided decoding is off for this model: .*{words}"):
            Grammars(tmp_path / name, 20, (0,)).begin(b"json", b"")


class Impartial(PlayedDecoder):
    """A decoder that holds every token for as likely as every other."""

    def __init__(self) -> None:
        super().__init__(end_ids=(END,))
        self.vocabulary = VOCABULARY

    def _logits(self, rows: Any) -> Any:
        return np.zeros((len(rows), VOCABULARY), np.float32)


def test_the_engine_ends_an_answer_that_is_complete_and_one_that_broke_off(grammars: Any) -> None:
    engine = Engine(Impartial(), max_queue_size=9, chunk=8)
    settings = Settings(max_tokens=30, temperature=1.0, seed=2)
    guided = Generation([1, 2], settings, grammar=grammars.begin(b"regex", b"[a-f]{9}"))
    cut = Generation([1, 2], Settings(max_tokens=3, temperature=1.0), grammar=grammars.begin(b"regex", b"[a-f]{9}"))
    broken = Generation([1, 2], settings, grammar=grammars.begin(b"regex", b"a"))
    broken.grammar.add(TOKENIZER.token_to_id("b"))
    # The last token allowed is the guide's last.
    exact = Generation([1, 2], Settings(max_tokens=1), grammar=grammars.begin(b"regex", b"a"))
    endless = Generation([1, 2], Settings(end_ids=()), grammar=grammars.begin(b"regex", b"ab?"))
    free = Generation([1, 2], settings)
    every = guided, cut, broken, exact, endless, free
    for generation in every:
        engine.submit(generation)
    wait_until(lambda: all(each.finish_reason for each in every))
    engine.close()
    assert [each.finish_reason for each in every[:-1]] == ["stop", "length", "error", "stop", "stop"]
    assert re.fullmatch("[a-f]{9}", TOKENIZER.decode(guided.output))
    assert free.finish_reason in ("stop", "length"), "what failed beside it is none of its business"
