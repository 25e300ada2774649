"""A client that lives long, at a real tritonserver: its memory, threads and files stay what they are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fault_callers import CALLERS

pytestmark = pytest.mark.server

REQUESTS, STREAMS = 1000, 100
# What 800 requests and 80 streams after a warm-up of a quarter of that may add: the allocator's own noise.
GROWTH_MB = 1.0


def test_a_thousand_requests_and_a_hundred_streams_on_each_transport_leave_memory_flat(server):
    script = Path(__file__).with_name("client_soak.py")
    soaks = [
        subprocess.Popen(
            [sys.executable, str(script), url, kind, str(REQUESTS), str(STREAMS)], stdout=subprocess.PIPE, text=True
        )
        for url in (server.grpc_url, server.http_url)
        for kind in CALLERS
    ]
    for each in soaks:
        output, _ = each.communicate(timeout=200)
        assert each.returncode == 0
        found = json.loads(output)
        assert found["rss_mb"][-1] - found["rss_mb"][0] < GROWTH_MB, found
        assert len(set(found["threads"])) == len(set(found["fds"])) == 1, found
