"""The seam through which the project calls foreign tools (nvidia-smi, docker, trtllm-build); tests hand in recordings.

`run` is for a question whose answer is short, `stream` for work whose output is shown as it comes.
"""

import os
import select
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

# What a shell answers for a command that it does not find, and what `timeout` answers for one that hangs.
NOT_FOUND = 127
TIMED_OUT = 124
# A GPU that fell off its bus lets nvidia-smi hang; others may have an image to pull first.
LIMITS_S = {"nvidia-smi": 60.0}
GRACE_S = 10.0
LAST_LINES = 15


@dataclass(frozen=True)
class Ran:
    """How a tool ended: its exit code, and all that it wrote."""

    code: int
    stdout: str = ""
    stderr: str = ""

    @property
    def words(self) -> str:
        """The last line that the tool wrote, the standard error first: where tools say why they failed."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1].strip() if lines else "it said nothing"


Runner = Callable[[Sequence[str]], Ran]
Streamer = Callable[[Sequence[str], Callable[[str], None]], int]


def run(argv: Sequence[str]) -> Ran:
    """Run a tool to its end, without standard input.

    A tool that is not there ends with NOT_FOUND, one that outlasts its limit with TIMED_OUT.
    """
    limit_s = LIMITS_S.get(argv[0])
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ran(TIMED_OUT, stderr=f"{argv[0]} gave no answer within {limit_s:.0f} s")
    except OSError as error:
        return Ran(NOT_FOUND, stderr=f"{argv[0]}: {error.strerror}")
    return Ran(done.returncode, done.stdout, done.stderr)


def stream(argv: Sequence[str], on_line: Callable[[str], None]) -> int:
    """Run a tool, hand each line of its output and errors to `on_line` as it comes, and return its exit code.

    A progress bar's carriage returns end lines too. The tool is given a process group of its own, and nothing of
    that group outlives the call: on Ctrl-C, or whatever `on_line` raises, it gets SIGTERM and `GRACE_S` seconds, so
    that `docker run` ends its container, then SIGKILL. A tool that is not there ends with NOT_FOUND.
    """
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=0,
        )
    except OSError as error:
        on_line(f"{argv[0]}: {error.strerror}")
        return NOT_FOUND
    assert process.stdout
    exited = os.pidfd_open(process.pid)
    try:
        for line in process.stdout:
            on_line(line.rstrip("\n"))
        select.select([exited], [], [])
    except BaseException:
        _end(process.pid, signal.SIGTERM)
        select.select([exited], [], [], GRACE_S)
        raise
    finally:
        # The leader is not reaped before this, so the group's number cannot have gone to somebody else.
        _end(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        os.close(exited)
    return process.returncode


def watched(stream: Streamer, argv: Sequence[str], on_line: Callable[[str], None]) -> tuple[int, str]:
    """Stream a tool; return its exit code and its last lines, indented, for who has to say why it failed."""
    last: deque[str] = deque(maxlen=LAST_LINES)

    def keep(line: str) -> None:
        last.append(line)
        on_line(line)

    code = stream(argv, keep)
    return code, "\n".join(f"  {line}" for line in last) or "  nothing"


def _end(group: int, by: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, by)
