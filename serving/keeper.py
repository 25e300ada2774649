"""The process that owns a tritonserver: whatever becomes of `yard`, nothing of the server is left behind.

    yard ──pipe──► keeper ──► tritonserver ──► triton_python_backend_stub ...

A stub outlives a killed tritonserver, is deaf to SIGTERM and keeps its /dev/shm segment, and a parent-death signal
does not reach it. So the keeper waits for either end: the pipe from `yard` closes (it asks for a stop, or it died, by
SIGKILL too), or tritonserver exits. Then it ends the server's whole process group, removes its shared-memory
segments and its scratch folder, and exits with the server's own code. Runs by itself (`python keeper.py`), standard
library only, and sets no policy: restarting is the caller's.
"""

import argparse
import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def start(argv: list[str], scratch: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start the server in its own process group, from the neutral folder `scratch`, its output into `log`."""
    # Should the keeper itself be killed, the server still dies; the keeper has one thread, so the signal is sound.
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            process_group=0,
            preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )


def wait(server: "subprocess.Popen[bytes]", stops: list[int], grace_s: float) -> int:
    """Wait until the server exits or one of `stops` has something to read; end the server; return its exit code."""
    exited = os.pidfd_open(server.pid)
    ready, _, _ = select.select([exited, *stops], [], [])
    if exited not in ready:
        server.terminate()
        if not select.select([exited], [], [], grace_s)[0]:
            server.kill()
    os.close(exited)
    return server.wait()


def sweep(group: int, shm_prefix: str, scratch: Path) -> None:
    """End what is left of the process group, reap it, and remove its shared memory and its scratch folder."""
    deadline = time.monotonic() + 5
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.01)
    remove_files(shm_prefix, scratch)


def remove_files(shm_prefix: str, scratch: Path) -> None:
    """Remove the shared-memory segments and the scratch folder of a server that has ended."""
    for segment in Path("/dev/shm").glob(f"{shm_prefix}*"):
        segment.unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)


def main() -> int:
    """Run the server that the command line names until standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--shm-prefix", required=True)
    parser.add_argument("--grace", type=float, default=10.0, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("argv", nargs="+")
    args = parser.parse_args()
    # A Ctrl-C in the terminal goes to `yard` alone, which closes the pipe.
    os.setsid()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    # SIGTERM is one more descriptor to wait for, so that it cannot interrupt the cleaning up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminated, terminate = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(terminate, b"."))
    server = start(args.argv, args.scratch, args.log)
    try:
        code = wait(server, [sys.stdin.fileno(), terminated], args.grace)
    finally:
        sweep(server.pid, args.shm_prefix, args.scratch)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
