"""What one request asks of TensorRT-LLM's LLM API, by the names of NVIDIA's llmapi model. Pure."""


class BadRequest(Exception):
    """A request that is not taken; the message is the caller's answer."""


# Input -> the name that `tensorrt_llm.SamplingParams` has for it.
NAMES = {
    f"sampling_param_{name}": name
    for name in (
        "best_of",
        "temperature",
        "top_k",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "max_tokens",
        "seed",
    )
}
# What would bring outputs that this model does not write.
NOT_CARRIED = ("sampling_param_return_perf_metrics", "return_stop_reason", "return_cumulative_logprob")


def sampling_params(sent):
    """Return the arguments of `SamplingParams` for the inputs `sent`: name -> list of elements, those sent alone.

    `max_tokens` None is as many as the prompt leaves room for: `SamplingParams` itself would say 32. A temperature of 0
    is greedy. Raises BadRequest for what is not carried.
    """
    for name in NOT_CARRIED:
        if sent.get(name) == [True]:
            raise BadRequest(f"{name} is true, which this model does not carry; leave it out")
    if sent.get("sampling_param_exclude_input_from_output") == [False]:
        raise BadRequest("sampling_param_exclude_input_from_output is false; the answer never repeats the prompt")
    given = {"max_tokens": None} | {ours: sent[name][0] for name, ours in NAMES.items() if name in sent}
    if given["max_tokens"] is not None and given["max_tokens"] < 1:
        raise BadRequest(f"max_tokens is {given['max_tokens']}; give 1 or more")
    if given.get("temperature") == 0:
        del given["temperature"]
        given["top_k"] = 1
    return given


def prompt_of(sent):
    """Return the text of `text_input`; raise BadRequest unless it is one, in UTF-8."""
    texts = sent.get("text_input", [])
    if len(texts) != 1:
        raise BadRequest(f"text_input holds {len(texts)} texts; send one a request")
    return _text(texts[0], "text_input")


def stop_strings(sent):
    """Return the texts that end the answer; raise BadRequest on an empty one."""
    words = [_text(word, "sampling_param_stop") for word in sent.get("sampling_param_stop", [])]
    if "" in words:
        raise BadRequest(f"sampling_param_stop {words.index('')} is empty; send texts of 1 character or more")
    return words


def _text(value, name):
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name} is not UTF-8: {error.reason} at position {error.start}; encode it as UTF-8") from None
