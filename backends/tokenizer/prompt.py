"""What a caller asks of a language model -> its prompt, as ids or as text, and what is to be known of its stream.

The inputs are those of TensorRT-LLM's ensemble (1.2.1, `all_models/inflight_batcher_llm`), and `messages`. All sizes
are checked before anything is parsed.
"""

import json
from dataclasses import dataclass

from messages import read_messages
from refusal import Refusal, utf8

MAX_STOP_WORDS = 16
MAX_STOP_WORD = 256
# The longest UTF-8 encoding of one character.
UTF8_BYTES = 4


@dataclass(frozen=True)
class Prompt:
    """The prompt's token ids, whether the caller wants deltas, the texts that end an answer, how many answers."""

    ids: list
    stream: bool
    stop: list
    answers: int = 1

    @property
    def streaming(self):
        """Whether its decoder shall stream: whoever waits for a stop string must see the tokens as they come."""
        return self.stream or bool(self.stop)

    def context(self, **more):
        """Return what the detokenizer must know: UTF-8 JSON {"stream", "stop", "input_tokens"}, and `more`.

        "answers" is there where it is not 1.
        """
        known = {"stream": self.stream, "stop": self.stop, "input_tokens": len(self.ids)}
        known |= {"answers": self.answers} if self.answers != 1 else {}
        return json.dumps(more | known, ensure_ascii=False).encode()


class Prompts:
    """Makes prompts with `tokenizer` (Hugging Face tokenizers, without padding and truncation) and `chat`.

    A prompt holds at most `max_tokens` - 1 tokens, so that one is left for the answer; `text_input` and `messages`
    hold at most `max_text_bytes` bytes.
    """

    def __init__(self, tokenizer, chat, max_tokens, max_text_bytes):
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self._chat, self._max_text_bytes = chat, max_text_bytes

    def make(self, sent):
        """Return the Prompt of one request: `sent` is input name -> list of its elements, without those not sent.

        Raises Refusal with what is wrong.
        """
        _, ids = self.read(sent)
        words = sent.get("stop_words", [])
        # NVIDIA's examples send one empty word for none.
        stop = [_stop_word(index, word) for index, word in enumerate(words if words != [b""] else [])]
        return Prompt(ids, sent.get("stream") == [True], stop, *sent.get("num_return_sequences", []))

    def read(self, sent):
        """Return the text of the prompt in `sent`, and its ids: of `text_input` with the tokenizer's own special
        tokens, of `messages` with the template's.

        A template writes its special tokens itself: more of them would double the first one. Raises Refusal.
        """
        self._check_sizes(sent)
        if sent.get("exclude_input_in_output") == [False]:
            raise Refusal("exclude_input_in_output is false, only true is carried: the answer never repeats the prompt")
        if "text_input" in sent:
            text = utf8(sent["text_input"][0], "text_input")
            return text, self._fit(self.tokenizer.encode(text).ids)
        messages = read_messages(utf8(sent["messages"][0], "messages"))
        text = self._chat.render(messages, self._max_text_bytes)
        return text, self._fit(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _fit(self, ids):
        """Return `ids`; raise Refusal where they are none, or leave no room for an answer."""
        if not ids:
            raise Refusal("the prompt has no tokens at all; send some text")
        if len(ids) >= self.max_tokens:
            raise Refusal(
                f"the prompt has {len(ids)} tokens, the longest this model takes is {self.max_tokens - 1} tokens "
                f"(prompt and answer share {self.max_tokens}); shorten it"
            )
        return ids

    def _check_sizes(self, sent):
        """Raise Refusal for no prompt, two prompts, too much text, or too many or too long stop words."""
        given = [name for name in ("text_input", "messages") if name in sent]
        if len(given) != 1:
            found = "both text_input and messages were sent" if given else "neither text_input nor messages was sent"
            raise Refusal(f"{found}; send one of them")
        size = len(sent[given[0]][0])
        if size > self._max_text_bytes:
            raise Refusal(
                f"{given[0]} is {size} bytes long, the longest this model takes is {self._max_text_bytes} bytes; "
                "shorten it"
            )
        words = sent.get("stop_words", [])
        if len(words) > MAX_STOP_WORDS:
            raise Refusal(f"{len(words)} stop_words were sent, at most {MAX_STOP_WORDS} are taken")
        for index, word in enumerate(words):
            if len(word) > MAX_STOP_WORD * UTF8_BYTES:
                raise Refusal(
                    f"stop word {index} is {len(word)} bytes long, at most {MAX_STOP_WORD} characters are taken"
                )


def _stop_word(index, word):
    text = utf8(word, f"stop word {index}")
    if not 1 <= len(text) <= MAX_STOP_WORD:
        raise Refusal(f"stop word {index} has {len(text)} characters, taken are 1 to {MAX_STOP_WORD}")
    return text
