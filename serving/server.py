"""One running tritonserver: start it under its keeper, wait until it is ready, stop it.

Knows nothing of what the models do; whether an answer is right is `serving.golden`'s.
"""

import contextlib
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from types import TracebackType

import psutil

from serving import embedded, keeper
from serving.deployment import Deployment
from serving.embedded import Launch, Ports
from serving.errors import ServingError
from serving.explanations import explain
from tritonyard import Client

FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.+)")
POLL_FAILED = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.+)")
# What the embedded server says of the GPU that is not there.
# The last is logged for every error on a gRPC stream whose caller asked for real statuses.
HARMLESS = re.compile(r"CUDA|NVML|DCGM|HandleCancellation called even when", re.IGNORECASE)
# TensorRT-LLM puts its whole stack into one line.
WORDS = 300
POLL_S = 0.05
WATCH_S = 0.25
STUB = "triton_python_backend_stub"

Launcher = Callable[[Path, Path, Ports, Path, str], Launch]


class Server:
    """A tritonserver over `repository`, as a context manager: entered when its ports answer, left when all is gone.

    `backends` holds our python-based backends, `log` takes the server's output, `launch` is the runtime's. `extra`
    arguments go to tritonserver. `deployment` says which models it loads where these are not all.
    """

    def __init__(
        self,
        repository: Path,
        backends: Path,
        ports: Ports,
        log: Path,
        launch: Launcher = embedded.launch,
        extra: tuple[str, ...] = (),
        deployment: Deployment | None = None,
    ):
        self.ports, self.log = ports, log
        self.grpc_url = f"grpc://127.0.0.1:{ports.grpc}"
        self.http_url = f"http://127.0.0.1:{ports.http}"
        self.metrics_url = f"http://127.0.0.1:{ports.metrics}/metrics"
        self.admin_key = secrets.token_urlsafe(24)
        self._repository, self._backends = repository, backends
        self._launch, self._extra = launch, extra
        self.is_embedded = launch is embedded.launch
        self.deployment = deployment
        self._keeper: subprocess.Popen[bytes] | None = None
        self._scratch = Path()

    def start(self) -> None:
        """Start the server; returns at once."""
        scratch = self._scratch = Path(tempfile.mkdtemp(prefix="tritonyard-"))
        launch = self._launch(self._repository, self._backends, self.ports, scratch, self.admin_key)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        keep = [sys.executable, keeper.__file__, f"--log={self.log.resolve()}", f"--scratch={scratch}"]
        self._keeper = subprocess.Popen(
            [*keep, f"--shm-prefix={embedded.shm_prefix(scratch)}", "--", *launch.argv, *self._extra],
            stdin=subprocess.PIPE,
            env=launch.environment,
        )

    def wait_until_live(self, timeout_s: float, on_wait: Callable[[float], None] = lambda _: None) -> None:
        """Wait until every model is loaded and every port open; `on_wait` is called with the seconds waited.

        Raises ServingError with the server's own reason: it exited, or is not ready after `timeout_s`.
        """
        begun = time.monotonic()
        with Client(self.grpc_url, timeout=1.0) as client:
            while not (client.ready() and self._shows_metrics()):
                waited = time.monotonic() - begun
                if self.exit_code() is not None:
                    raise ServingError(f"tritonserver stopped while loading; {self.explain()}")
                if waited > timeout_s:
                    raise ServingError(f"tritonserver is not ready after {timeout_s:.0f} s; {self.explain()}")
                on_wait(waited)
                time.sleep(POLL_S)

    def _shows_metrics(self) -> bool:
        """Tell whether the port of the metrics is open: the last that tritonserver opens."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.ports.metrics), 1.0):
            return True
        return False

    def exit_code(self) -> int | None:
        """Return the exit code of a server that has ended, None of one that runs."""
        return self._keeper.poll() if self._keeper else None

    def wait_until_broken(self) -> str:
        """Wait until the server can no longer answer, and return why in a few words.

        A model whose stub died stays READY for tritonserver and fails every request: that counts as broken.
        """
        seen: set[int] = set()
        while True:
            if (code := self.exit_code()) is not None:
                return f"tritonserver ended with exit code {code}"
            stubs = self.stubs()
            if dead := seen - set(stubs):
                return f"the stub of a model died (process {min(dead)})"
            seen |= set(stubs)
            time.sleep(WATCH_S)

    def stubs(self) -> dict[int, str]:
        """Return the living stub processes of the embedded server: process id to command line."""
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._running().pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.name() == STUB and process.status() != psutil.STATUS_ZOMBIE:
                        found[process.pid] = " ".join(process.cmdline())
        return found

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._keeper, "the server was not started"
        return self._keeper

    def explain(self) -> str:
        """Return in one line why a load failed, the known cause or the server's own words, and where its log lies."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        known = explain(text)
        if known and not known.is_symptom:
            failed = FAILED.search(known.line)
            model = f"model '{failed['model']}' failed to load: " if failed else ""
            return f"{model}{known}; the server said: {shorten(known.line, WORDS)} (log: {self.log})"
        for pattern in (FAILED, POLL_FAILED):
            if found := pattern.search(text):
                model = Path(found["model"]).name
                reason = found["reason"].rstrip('"')
                return f"model '{model}' failed to load: {reason} (log: {self.log})"
        errors = [
            line
            for line in text.splitlines()
            if (line.startswith("E") or "error:" in line) and not HARMLESS.search(line)
        ]
        return f"its last error: {errors[-1].strip() if errors else 'none'} (log: {self.log})"

    def stop(self, at_once: bool = False) -> None:
        """Stop the server and wait until its processes and shared memory are gone.

        `at_once` is for a broken one: it does not wait for requests that will never be answered. A container is
        given its time all the same, because one whose client was killed would stay.
        """
        if self._keeper is None:
            return
        assert self._keeper.stdin
        if at_once and self.is_embedded:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(self._keeper.pid).children():
                    process.kill()
        self._keeper.stdin.close()
        if self._keeper.wait() < 0:
            self._sweep()
        self._keeper = None

    def _sweep(self) -> None:
        """Do the work of a keeper that was itself killed: the server died with it, its stubs did not."""
        for process in psutil.process_iter(["pid", "cmdline"]):
            if any(str(self._scratch) in word for word in process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        keeper.remove_files(embedded.shm_prefix(self._scratch), self._scratch)

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
