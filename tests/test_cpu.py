"""The generator's own share of a core."""

import os
import time

import psutil

from loadtests.traffic.cpu import CpuMeter


def spin(seconds):
    begun = psutil.Process().cpu_times().user
    while psutil.Process().cpu_times().user - begun < seconds:
        sum(range(1000))


def test_a_share_is_cpu_seconds_over_seconds_of_the_clock():
    now = [0.0]
    meter = CpuMeter(os.getpid(), clock=lambda: now[0])
    spin(0.1)
    now[0] = 0.5
    meter.sample()
    assert meter.p95 is None  # not a second yet
    now[0] = 2.0
    meter.sample()
    # 0.1 s of work, and what the test itself needed, in 2 s.
    assert 0.04 <= meter.p95 < 0.4


def test_the_p95_is_of_all_samples():
    now = [0.0]
    meter = CpuMeter(os.getpid(), clock=lambda: now[0])
    for second in range(1, 41):
        if second == 40:
            spin(0.2)
        now[0] = float(second)
        meter.sample()
    assert meter.p95 < 0.15  # the one busy second of forty lies above it


def test_a_process_that_ended_is_passed_over():
    child = os.fork()
    if child == 0:
        time.sleep(60)
    now = [0.0]
    meter = CpuMeter(child, clock=lambda: now[0])
    os.kill(child, 9)
    os.waitpid(child, 0)
    now[0] = 5.0
    meter.sample()
    assert meter.p95 is None
