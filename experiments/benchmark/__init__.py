"""Benchmarks of pf_keras: `python -m experiments.benchmark`. docs/performance.md has the results."""
