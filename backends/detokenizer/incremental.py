"""Exact incremental detokenisation over Hugging Face tokenizers.

The pieces that an `IncrementalDecoder` returns, joined, are `tokenizer.decode(all_ids, skip_special_tokens=True)`: for
every chunking, and for the decoders byte level, byte fallback, metaspace, word piece and BPE with a word end. (The
library's own DecodeStream is not exact: it drops what is incomplete at the end, and byte runs that are not UTF-8.)

What a token says depends on its neighbours: a space before all but the first, four bytes for one emoji. So new tokens
are decoded behind a few old ones, the window, and what the window has said before is cut off. Two things wait:

- A text's last U+FFFD, which may be the beginning of a character. One before it stays what it is.
- A run of byte tokens <0x00> to <0xFF> until it ends: it is decoded as a whole, and is all U+FFFD if not UTF-8.
"""

# Old tokens that stay in the window. An open character has at most 3 bytes, so at most 3 tokens: the window begins
# before it, and UTF-8 finds its characters from any byte on. What the window's cut first character says is old text.
KEPT = 4
REPLACEMENT = "\ufffd"


class Vocabulary:
    """What a decoder must know of the ids of `tokenizer`; one for all streams.

    `tokenizer` is a tokenizers.Tokenizer, or whatever has its `decode`, `id_to_token` and `get_added_tokens_decoder`.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self._special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}

    def shows(self, id):
        """Tell whether `id` is decoded at all: neither special nor out of the vocabulary."""
        return id >= 0 and id not in self._special and self.tokenizer.id_to_token(id) is not None

    def is_byte(self, id):
        """Tell whether the token of `id` is written as one byte, <0x0A>."""
        token = self.tokenizer.id_to_token(id)
        return len(token) == 6 and token.startswith("<0x") and token.endswith(">")

    def decode(self, ids):
        """Return the text of `ids`."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class IncrementalDecoder:
    """The text of one stream, piece by piece: `push` tokens, and `flush` at the end.

    The work per token is bounded, but for a run of byte tokens, which is decoded once, when it ends.
    """

    def __init__(self, vocabulary):
        self._vocabulary = vocabulary
        self._window, self._run = [], []
        self._said = 0  # characters of the window's text that were returned

    def push(self, ids):
        """Return the text that `ids` add for certain; it may be empty."""
        before = len(self._window)
        for id in filter(self._vocabulary.shows, ids):
            if self._vocabulary.is_byte(id):
                self._run.append(id)
            else:
                self._window += [*self._run, id]
                self._run.clear()
        if len(self._window) == before:
            return ""
        text = self._vocabulary.decode(self._window)
        sure = len(text) - text.endswith(REPLACEMENT)
        piece = text[self._said : sure]
        self._said = max(self._said, sure)
        if len(self._window) > 2 * KEPT:
            self._shrink(text[self._said :])
        return piece

    def flush(self):
        """Return the text that was held back; nothing follows."""
        text = self._vocabulary.decode(self._window + self._run)
        return text[self._said :]

    def _shrink(self, held):
        """Forget the window's oldest tokens; `held`, the end of its text, was not returned."""
        kept = self._window[-KEPT:]
        text = self._vocabulary.decode(kept)
        said = len(text) - len(held)
        # Decoders strip the start of a text, so the window must have said something. And what was held must be in it:
        # word piece's "##" says nothing after a word, but all of itself where a window begins.
        if said > 0 and text[said:] == held:
            self._window, self._said = kept, said
