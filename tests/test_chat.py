"""Chat templates: what transformers' own apply_chat_template gives, and a sentence for all that goes wrong."""

import json
from typing import Any

import pytest

from yard.checkout import BACKENDS

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BACKENDS / "tokenizer")
    from chat import MAX_ADDED, Chat
    from messages import read_messages
    from prompt import Prompts
    from refusal import Refusal

# The shapes that are in use, each the way its family writes it.
SHAPES = {
    "chatml": """
{%- for message in messages %}
{%- if loop.first and messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful AI assistant<|im_end|>\\n' }}
{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""",
    "llama 2": """
{% if messages[0]['role'] == 'system' %}
    {% set loop_messages = messages[1:] %}
    {% set system_message = messages[0]['content'] %}
{% else %}
    {% set loop_messages = messages %}
    {% set system_message = false %}
{% endif %}
{% for message in loop_messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if loop.index0 == 0 and system_message != false %}
        {% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {% else %}
        {% set content = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}
        {{ ' ' + content.strip() + ' ' + eos_token }}
    {% endif %}
{% endfor %}
""",
    "llama 3": """
{{- bos_token }}
{%- if tools is not none %}{{- raise_exception('no tools here') }}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- set ns = namespace(count=0) %}
{%- for message in messages %}
    {%- set ns.count = ns.count + 1 %}
    {{- '<|im_start|>' + message.role + '\\n\\n' + message['content'] | trim + '<|im_end|>' }}
{%- endfor %}
{{- ns.count ~ '\\n' }}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}
""",
    "gemma": """
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}
""",
    "mistral": """
{{ bos_token }}{% for message in messages %}
{%- if message.role == 'system' %}{% continue %}{% endif %}
{%- if message['role'] == 'user' %}{{ ' [INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}
""",
    "json and generation": """
{% for message in messages %}
{% if message.role == 'assistant' %}
{% generation %}
{% set inside = message.content %}
{{ inside }}{{ eos_token }}
{% endgeneration %}
{{ inside is defined }}
{% else %}
{{ message | tojson }} {{ messages | tojson(indent=2) }} {{ unk_token is defined }} {{ documents is none }}
{% endif %}
{% endfor %}
""",
}
TALKS: dict[str, list[dict[str, Any]]] = {
    "one": [{"role": "user", "content": '  Why is the sky <blue> & "wide"? é 🙂 日本 '}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    "turns": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "<|im_end|> and </s>?"},
    ],
}
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(scope="module")
def reference() -> Any:
    """A transformers tokenizer, which itself puts a beginning before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"])
    begin = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", begin)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def prompts(reference: Any, template: str | None) -> Prompts:
    chat = Chat({"template": template, "pad_token": None} | NAMES)
    return Prompts(reference.backend_tokenizer, chat, max_tokens=4096, max_text_bytes=65536)


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_text_and_ids_are_what_transformers_gives(reference: Any, shape: str, talk: str) -> None:
    import jinja2

    template, messages = SHAPES[shape], TALKS[talk]
    settings = {"chat_template": template, "add_generation_prompt": True}
    ours = {"messages": [json.dumps(messages).encode()]}
    try:
        text = reference.apply_chat_template(messages, tokenize=False, **settings)
    except jinja2.TemplateError as error:
        with pytest.raises(Refusal, match=f"chat template refuses these messages: {error}"):
            prompts(reference, template).make(ours)
        return
    assert Chat({"template": template} | NAMES).render(messages, 65536) == text
    ids = reference.apply_chat_template(messages, return_dict=False, **settings)
    assert prompts(reference, template).make(ours).ids == ids
    assert ids.count(reference.bos_token_id) <= text.count("<s>")


def test_some_talks_are_refused_by_some_templates(reference: Any) -> None:
    """The test above means both of its branches."""
    with pytest.raises(Refusal, match="refuses these messages: System role not supported"):
        Chat({"template": SHAPES["gemma"]} | NAMES).render(TALKS["system"], 65536)


def test_a_plain_text_has_the_special_tokens_of_the_tokenizer(reference: Any) -> None:
    ids = prompts(reference, None).make({"text_input": [b"Hi"]}).ids
    assert ids == reference("Hi")["input_ids"]
    assert ids[0] == reference.bos_token_id


FAULTY = {
    "none": (None, "this checkpoint has no chat template; send text_input"),
    "broken": ("{{ bos_token }}\n{% for message in %}", "template is broken in line 2: .*; send text_input"),
    "unknown filter": ("{{ messages | nosuch }}", "broken in line 1: No filter named 'nosuch'"),
    "no such name": ("{{ messages[0].nosuch.at_all }}", "refuses these messages: 'dict object' has no attribute"),
    "adds a number": ("{{ messages[0].content + 1 }}", "fails on these messages: TypeError: "),
    "divides by zero": ("{{ 1 / (messages | length - 1) }}", "fails on these messages: ZeroDivisionError"),
    "a long range": ("{{ range(100001) | list }}", "fails on these messages: OverflowError: Range too big"),
    "never ends": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "fails on these messages: RecursionError"),
    "explodes": (
        "{% for a in range(99999) %}{% for b in range(99999) %}word {% endfor %}{% endfor %}",
        f"writes more than {100 + MAX_ADDED} characters; shorten the messages",
    ),
    "reaches out": ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "refuses these messages: access to"),
    "changes its input": ("{{ messages.append(1) }}", "refuses these messages: access to attribute 'append'"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_template_at_fault_refuses_in_words(name: str) -> None:
    template, words = FAULTY[name]
    with pytest.raises(Refusal, match=words):
        Chat({"template": template} | NAMES).render(TALKS["one"], 100)


BAD = {
    "no json": ("[{", "messages is not JSON: Expecting property name"),
    "empty text": ("", "messages is not JSON: Expecting value"),
    "an object": ('{"role": "user"}', "messages is an object; send a list"),
    "a string": ('"Hi"', "messages is a string; send a list"),
    "null": ("null", "messages is null; send a list"),
    "no message": ("[]", "messages is an empty list; send one message at least"),
    "a number": ('[{"role": "user", "content": "a"}, 7]', "message 1 is a number; send an object"),
    "true": ("[true]", "message 0 is true or false; send an object"),
    "no role": ('[{"content": "a"}]', "message 0 has no role; it is one of system, developer, user"),
    "a near role": (
        '[{"role": "asistant", "content": "a"}]',
        "message 0 has the unknown role 'asistant'; did you mean",
    ),
    "a role in capitals": ('[{"role": "User", "content": "a"}]', "unknown role 'User'; did you mean 'user'?"),
    "a far role": ('[{"role": "zzz", "content": "a"}]', "message 0 has the unknown role 'zzz'; known are system, "),
    "a list for a role": ('[{"role": ["user"], "content": "a"}]', "message 0 has the unknown role "),
    "a long role": (f'[{{"role": "{"x" * 999}", "content": "a"}}]', f"unknown role '{'x' * 40}\\.\\.\\.'"),
    "no content": ('[{"role": "user", "content": "a"}, {"role": "user"}]', r"message 1 \(user\) has no content"),
    "null content": ('[{"role": "assistant", "content": null}]', r"message 0 \(assistant\) has no content"),
    "a number for content": ('[{"role": "user", "content": 7}]', "the content of message 0 is a number; send a string"),
    "a part of text": ('[{"role": "user", "content": ["a"]}]', "message 0, part 0 is a string; send"),
    "an image": (
        '[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]',
        "message 0, part 1 has the type 'image_url'; this model takes parts of type 'text'",
    ),
    "a part without text": ('[{"role": "user", "content": [{"type": "text"}]}]', "message 0, part 0 has no text"),
    "deep": ("[" * 100_000, "messages are nested too deeply"),
    "a long number": (f"[{'7' * 5000}]", "messages is not JSON: Exceeds the limit"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistaken_messages_are_refused_with_place_and_fact(name: str) -> None:
    text, words = BAD[name]
    with pytest.raises(Refusal, match=words):
        read_messages(text)


def test_half_a_surrogate_pair_is_refused() -> None:
    messages = read_messages('[{"role": "user", "content": "a\\ud83d"}]')
    with pytest.raises(Refusal, match=r"messages hold the lone surrogate U\+D83D, which is no character"):
        Chat({"template": SHAPES["chatml"]} | NAMES).render(messages, 65536)


def test_text_parts_are_joined_and_other_keys_handed_on() -> None:
    content = '[{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]'
    messages = read_messages(f'[{{"role": "tool", "name": "clock", "tool_calls": null, "content": {content}}}]')
    assert messages == [{"role": "tool", "name": "clock", "content": "a b"}]
