"""What a server says of a request, in the words of who made it."""

import re

from tritonyard._options import option_of
from tritonyard._transport import Call, Generate, Infer

# What tritonserver says of an input that the model lacks: over gRPC, and over HTTP, which takes it for a parameter.
LACKING = r"unexpected inference input '(\w+)' for model|parameter '(\w+)' has invalid type"


def callers_words(call: Call | Generate, words: str) -> str:
    """Return the server's words with what the caller can make something of.

    "text 3" of a request is turned into its number in the caller's list, an input into the option that it was made of.
    """
    if isinstance(call, Generate):
        return _by_options(call, words)
    if not isinstance(call, Infer):
        return words

    def renumber(found: re.Match[str]) -> str:
        row = int(found[1])
        return f"text {call.rows[row]}" if row < len(call.rows) else found[0]

    return re.sub(r"\btext (\d+)\b", renumber, words)


def _by_options(call: Generate, words: str) -> str:
    named = re.sub(r"\w+", lambda found: option_of(found[0], call) or found[0], words)
    lacking = re.search(LACKING, words)
    option = option_of(lacking[1] or lacking[2], call) if lacking else None
    return f"the model does not take '{option}': {named}" if option else named
