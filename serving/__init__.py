"""How Triton runs: preflight, launch (embedded | container), readiness, supervision."""
