"""The golden request of an engine that cannot be held against its checkpoint where it is built: it must be answered."""

import json
from pathlib import Path
from typing import Any

QUESTION = "What is the capital of France?"
TOKENS = 16


def golden_request(chat: Path) -> dict[str, Any]:
    """Return a question for the model whose chat template is in the file `chat`; no answer goes with it."""
    if json.loads(chat.read_text(encoding="utf-8"))["template"]:
        return {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": TOKENS}
    return {"prompt": QUESTION, "max_tokens": TOKENS}
