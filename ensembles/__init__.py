"""What a Triton model repository is made of: tensors, models, steps, ensembles; their config.pbtxt; the lint over it.

The lowest floor: knows nothing of checkpoints, engines or running servers.
"""
