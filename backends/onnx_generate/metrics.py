"""What the engine tells Triton's own metrics endpoint, from a thread of its own: each number is a round trip.

    tritonyard_time_to_first_token_seconds   histogram, from the request's arrival at the engine
    tritonyard_inter_token_seconds           histogram, between the tokens of one request
    tritonyard_requests_running, _waiting    gauges
    tritonyard_slots_used                    gauge: running requests and the one in prefill
    tritonyard_engine_steps                  counter
    tritonyard_preemptions                   counter: how often a request gave its slot up to a better priority level
    tritonyard_drafted_tokens                counter: tokens that were drafted and verified
    tritonyard_accepted_tokens               counter: those of them that were right
    tritonyard_input_tokens                  counter
    tritonyard_cached_tokens                 counter: input tokens that a slot still had, and that were not computed
    tritonyard_output_tokens                 counter by finish_reason: those of cancelled requests were for nothing
    tritonyard_requests_finished             counter by finish_reason

All carry the label `model`.
"""

import time
from contextlib import suppress
from itertools import pairwise
from queue import Empty, SimpleQueue
from threading import Thread

import triton_python_backend_utils as pb_utils

FIRST_TOKEN_BUCKETS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
INTER_TOKEN_BUCKETS = [0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0]
FINISH_REASONS = ("stop", "length", "timeout", "cancelled", "error")
# How often the gauges follow the scheduler, and the steps are counted.
GAUGE_S = 0.25


class Metrics:
    """The published metrics of the engine of `model`."""

    def __init__(self, model, engine):
        self._labels = {"model": model}
        self._engine, self._ended = engine, SimpleQueue()
        self._families = []  # a metric lives no longer than its family
        kinds = pb_utils.MetricFamily
        self._first = self._metric("time_to_first_token_seconds", kinds.HISTOGRAM, buckets=FIRST_TOKEN_BUCKETS)
        self._between = self._metric("inter_token_seconds", kinds.HISTOGRAM, buckets=INTER_TOKEN_BUCKETS)
        self._gauges = {name: self._metric(name, kinds.GAUGE) for name in self._now()}
        self._shown = dict.fromkeys(self._gauges, 0)
        self._counters = {name: self._metric(name, kinds.COUNTER) for name in self._engine.counts()}
        self._counted = dict.fromkeys(self._counters, 0)
        self._in = self._metric("input_tokens", kinds.COUNTER)
        self._cached = self._metric("cached_tokens", kinds.COUNTER)
        self._out = self._by_reason("output_tokens")
        self._finished = self._by_reason("requests_finished")
        self._thread = Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def ended(self, generation):
        """Count a generation that has ended; returns at once."""
        self._ended.put(generation)

    def close(self):
        """Stop the thread and let go of the metrics, each before its family."""
        self._ended.put(None)
        self._thread.join()
        del self._first, self._between, self._gauges, self._counters, self._in, self._cached, self._out, self._finished
        del self._families

    def _run(self):
        shown = time.monotonic()
        while True:
            with suppress(Empty):
                generation = self._ended.get(timeout=GAUGE_S)
                if generation is None:
                    return
                self._count(generation)
            if time.monotonic() >= shown + GAUGE_S:
                shown = time.monotonic()
                self._follow()

    def _count(self, generation):
        times = generation.token_times
        if times:
            self._first.observe(times[0] - generation.arrived)
        for before, after in pairwise(times):
            self._between.observe(after - before)
        if generation.place == 0:  # the prompt of several answers is one
            self._in.increment(len(generation.prompt))
            self._cached.increment(generation.cached)
        self._out[generation.finish_reason].increment(len(generation.output))
        self._finished[generation.finish_reason].increment(1)

    def _now(self):
        scheduler = self._engine.scheduler
        return {
            "requests_running": len(scheduler.running),
            "requests_waiting": len(scheduler.waiting),
            "slots_used": scheduler.slots_used,
        }

    def _follow(self):
        for name, total in self._engine.counts().items():
            if total > self._counted[name]:
                self._counters[name].increment(total - self._counted[name])
                self._counted[name] = total
        for name, value in self._now().items():
            if value != self._shown[name]:
                self._gauges[name].set(value)
                self._shown[name] = value

    def _family(self, name, kind):
        # What it means stands at the head of this file.
        words = name.replace("_", " ")
        family = pb_utils.MetricFamily(name=f"tritonyard_{name}", description=f"Tritonyard: {words}", kind=kind)
        self._families.append(family)
        return family

    def _by_reason(self, name):
        family = self._family(name, pb_utils.MetricFamily.COUNTER)
        return {reason: family.Metric(labels={**self._labels, "finish_reason": reason}) for reason in FINISH_REASONS}

    def _metric(self, name, kind, **buckets):
        return self._family(name, kind).Metric(labels=self._labels, **buckets)
