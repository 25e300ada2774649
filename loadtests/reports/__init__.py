"""A verdict for its readers: terminal, HTML page, JUnit XML, Prometheus text."""
