"""Thousands of requests through one client, and what this process holds meanwhile; run by itself, for a clean memory.

    python tests/client_soak.py grpc://127.0.0.1:8001 sync 10000 1000

prints one line of JSON: MB of memory after the warm-up (a fifth of the whole) and after each quarter of the rest, and
how many threads and file descriptors there were at each.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from fault_callers import CALLERS

QUARTERS = 4
AT_ONCE = 4


def soak(calling: Any, requests: int, streams: int) -> None:
    """Do so many of each."""
    for _ in range(requests):
        calling.infer()
    for _ in range(streams // AT_ONCE):
        calling.read_at_once(AT_ONCE, len, max_tokens=2)


def main(url: str, kind: str, requests: int, streams: int) -> dict[str, Any]:
    process, begun = psutil.Process(), time.monotonic()
    found: dict[str, Any] = {"url": url, "kind": kind, "rss_mb": [], "threads": [], "fds": []}
    calling = CALLERS[kind](url, timeout=30)
    for _ in range(1 + QUARTERS):
        soak(calling, requests // 5, streams // 5)
        found["rss_mb"].append(round(process.memory_info().rss / 1e6, 2))
        found["threads"].append(threading.active_count())
        found["fds"].append(len(list(Path("/proc/self/fd").iterdir())))
    calling.close()
    return {**found, "seconds": round(time.monotonic() - begun, 1)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
