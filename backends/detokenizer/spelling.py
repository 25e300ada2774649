"""What a token says by itself, as OpenAI's API shows it beside log probabilities: a text, and its bytes."""

from tokenizers import decoders


def byte_letters():
    """Return letter -> byte of byte-level tokens, GPT-2's: Latin-1's letter where it shows one, others from U+0100."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


class Spelling:
    """The tokens of `vocabulary` (`incremental.Vocabulary`), each spelled when it is first asked for.

    The bytes of an answer's tokens, joined, are its text, also where a character is cut into several tokens: byte-level
    and <0x0A> tokens are read as what they are. What others say is what they add to a text.
    """

    def __init__(self, vocabulary):
        self._vocabulary = vocabulary
        tokenizer = vocabulary.tokenizer
        self._letters = byte_letters() if isinstance(tokenizer.decoder, decoders.ByteLevel) else {}
        # Decoders strip the beginning of a text: something must stand before.
        self._before = tokenizer.encode("a", add_special_tokens=False).ids[-1:]
        self._known = {}

    def of(self, id):
        """Return {"token": text, "bytes": list of numbers} of a token id."""
        if id not in self._known:
            said = self._bytes(id)
            self._known[id] = {"token": said.decode(errors="replace"), "bytes": list(said)}
        return self._known[id]

    def _bytes(self, id):
        token = self._vocabulary.tokenizer.id_to_token(id) or ""
        if not self._vocabulary.shows(id):
            return token.encode()
        if self._vocabulary.is_byte(id):
            return bytes([int(token[3:5], 16)])
        if self._letters and all(letter in self._letters for letter in token):
            return bytes(self._letters[letter] for letter in token)
        before = self._vocabulary.decode(self._before)
        return self._vocabulary.decode([*self._before, id]).removeprefix(before).encode()
