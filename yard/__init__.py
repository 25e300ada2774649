"""The one command line: a file a command group. It alone prints and exits."""
