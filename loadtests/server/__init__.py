"""What the server's own metrics tell of a run."""
