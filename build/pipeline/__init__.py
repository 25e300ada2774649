"""Checkpoint -> engine -> repository: recipes, fingerprints, the store, one file an engine kind, quality, assembly."""
