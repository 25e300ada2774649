"""A real tritonserver of smollm2 alone, with fewer slots and a shorter queue than its recipe says."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from live_server import live_server

from serving.server import Server


@contextmanager
def few_slots(repository: Path, folder: Path, slots: int, queue: int) -> Iterator[Server]:
    """Serve a copy of `repository` in `folder`, where the log lies too."""
    copy = folder / "cpu"
    shutil.copytree(repository, copy, copy_function=shutil.copy)
    for model in copy.glob("minilm*"):
        shutil.rmtree(model)
    file = copy / "smollm2_decoder" / "config.pbtxt"
    text = file.read_text()
    for key, old, new in (("slots", 16, slots), ("max_queue_size", 256, queue)):
        entry = 'key: "{}"\n  value {{\n    string_value: "{}"'
        assert entry.format(key, old) in text
        text = text.replace(entry.format(key, old), entry.format(key, new))
    file.write_text(text)
    with live_server(copy, folder / "log") as running:
        yield running
