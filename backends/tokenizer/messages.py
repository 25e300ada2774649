"""The messages of a chat: JSON, checked one by one before a template sees them."""

import difflib
import json

from refusal import Refusal

ROLES = ("system", "developer", "user", "assistant", "tool")


def read_messages(text):
    """Return the messages of the JSON list `text`, each a dict with `role` and the text `content`.

    A content that is a list of text parts ({"type": "text", "text": ...}, as OpenAI's API has it) is joined without
    separator. Keys that are null are left out, others are handed on. Raises Refusal with index and fact.
    """
    try:
        messages = json.loads(text)
    except RecursionError:
        raise Refusal("messages are nested too deeply; send a list of objects with role and content") from None
    except ValueError as error:
        raise Refusal(f"messages is not JSON: {error}") from error
    if not isinstance(messages, list):
        raise Refusal(f"messages is {_kind(messages)}; send a list of objects with role and content")
    if not messages:
        raise Refusal("messages is an empty list; send one message at least")
    return [_message(index, message) for index, message in enumerate(messages)]


def _message(index, message):
    if not isinstance(message, dict):
        raise Refusal(f"message {index} is {_kind(message)}; send an object with role and content")
    # Clients write absent fields as null, which templates would print as "None".
    message = {key: value for key, value in message.items() if value is not None}
    role = message.get("role")
    if role is None:
        raise Refusal(f"message {index} has no role; it is one of {', '.join(ROLES)}")
    if role not in ROLES:
        near = difflib.get_close_matches(str(role).lower(), ROLES, 1)
        mend = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(ROLES)}"
        raise Refusal(f"message {index} has the unknown role {_quoted(role)}; {mend}")
    if "content" not in message:
        raise Refusal(f"message {index} ({role}) has no content; send a string")
    content = message["content"]
    if isinstance(content, list):
        content = "".join(_part(f"message {index}, part {place}", part) for place, part in enumerate(content))
    elif not isinstance(content, str):
        raise Refusal(f"the content of message {index} is {_kind(content)}; send a string or a list of text parts")
    return message | {"content": content}


def _part(name, part):
    if not isinstance(part, dict):
        raise Refusal(f'{name} is {_kind(part)}; send {{"type": "text", "text": ...}}')
    if part.get("type") != "text":
        raise Refusal(f"{name} has the type {_quoted(part.get('type'))}; this model takes parts of type 'text'")
    if not isinstance(part.get("text"), str):
        raise Refusal(f"{name} has no text; send a string")
    return part["text"]


def _kind(value):
    """Name the JSON kind of `value`."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _quoted(value):
    """Return `value` as a message shows it: a caller's megabyte is not sent back."""
    text = str(value)
    return f"'{text[:40]}...'" if len(text) > 40 else f"'{text}'"
