"""A checkpoint's chat template: messages -> the text of a prompt.

The same environment as `apply_chat_template` of transformers 5.23 (`transformers/utils/chat_template_utils.py`) gives
its templates: sandboxed jinja2, `raise_exception`, `strftime_now`, `tojson` without HTML escapes, `{% generation %}`.

Bounded: what a template writes, and its ranges (100,000 by jinja2's sandbox). Not bounded: nested loops that write
nothing, and what a template multiplies or collects in a variable. Templates are the checkpoint's, not the caller's.
"""

import json
from datetime import datetime

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from refusal import Refusal

# What a template may add to the messages: headers, default system prompts, instructions for tools.
MAX_ADDED = 65536


class Chat:
    """The template of `settings`: {"template": str | None, and the names it may use, such as "bos_token"}.

    A template that is broken or missing costs only the requests that need it.
    """

    def __init__(self, settings):
        self._names = {name: value for name, value in settings.items() if name != "template" and value is not None}
        self._template, self._fault = None, "this checkpoint has no chat template"
        if settings["template"] is not None:
            try:
                self._template = _environment().from_string(settings["template"])
            except jinja2.TemplateSyntaxError as error:
                self._fault = f"the checkpoint's chat template is broken in line {error.lineno}: {error.message}"

    def render(self, messages, max_text_bytes):
        """Return the prompt of `messages`, which ends where the assistant's answer begins.

        Raises Refusal: there is no template that works, it refuses these messages in its own words, it writes
        MAX_ADDED characters more than the `max_text_bytes` that a caller may send, or a text is not Unicode.
        """
        if self._template is None:
            raise Refusal(f"{self._fault}; send text_input")
        pieces, left = [], max_text_bytes + MAX_ADDED
        # A template asks of tools and documents whether they are none, so they must be defined.
        chat = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        try:
            for piece in self._template.generate(chat | self._names):
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    break
        except jinja2.TemplateError as error:
            raise Refusal(f"the checkpoint's chat template refuses these messages: {error}") from error
        except Exception as error:  # whatever a template can do wrong is an answer, never a dead step
            fault = f"{type(error).__name__}: {error}"
            raise Refusal(f"the checkpoint's chat template fails on these messages: {fault}") from error
        if left < 0:
            raise Refusal(
                f"the checkpoint's chat template writes more than {max_text_bytes + MAX_ADDED} characters; "
                "shorten the messages"
            )
        return _unicode("".join(pieces))


class Generation(Extension):
    """`{% generation %}` marks an assistant's words for training; here they are written like any others."""

    tags = frozenset(["generation"])

    def parse(self, parser):
        """Return the block's body in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _environment():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message):
    raise jinja2.TemplateError(message)


def _strftime_now(layout):
    return datetime.now().strftime(layout)


def _unicode(text):
    """Return `text`; JSON can spell half a surrogate pair, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refusal(
            f"messages hold the lone surrogate U+{ord(text[error.start]):04X}, which is no character"
        ) from None
    return text
