"""A gateway's cost beside that of others: `python -m nebula_bench.gateway --help`."""
