"""model.yaml in a version folder: what Triton is told of the model, and what TensorRT-LLM's `LLM` is called with.

`triton_config` holds `max_batch_size` and `decoupled`, as in NVIDIA's own llmapi model; every other key is an argument
of `LLM` (`tensorrt_llm/llmapi/llm_args.py`). `model` is a folder beside the file, a path, or a Hub id.
"""

NAME = "model.yaml"


def read_model_yaml(folder):
    """Return (triton_config, LLM's arguments) of the version folder `folder`, a Path.

    Raises ValueError with file and key.
    """
    import yaml

    file = folder / NAME
    try:
        settings = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise ValueError(f"{file} is missing; run `yard repository`") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} holds {type(settings).__name__}; it is a table of LLM's arguments and triton_config")
    for key in ("model", "triton_config"):
        if key not in settings:
            raise ValueError(f"{file} has no key {key}")
    triton = settings.pop("triton_config")
    if not isinstance(triton, dict) or not {"max_batch_size", "decoupled"} <= triton.keys():
        raise ValueError(f"{file}: triton_config is {triton}; it is a table of max_batch_size and decoupled")
    if not triton["decoupled"]:
        raise ValueError(f"{file}: triton_config.decoupled is false, but an answer may be streamed; set it to true")
    beside = folder / settings["model"]
    return triton, settings | {"model": str(beside) if beside.exists() else settings["model"]}
