"""Benchmarks of Nebula's parts. Each is a program: `python -m nebula_bench.store --help`."""
