"""Benchmarks of asyncdicom beside its peers: ``python -m benchmarks`` (see README.md)."""
