"""Benches: `python -m tests.bench.NAME`; each prints one JSON object a figure on stdout and a table on stderr."""
