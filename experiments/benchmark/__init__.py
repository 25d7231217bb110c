"""How fast pf_keras is, as ratios within one run: `python -m experiments.benchmark`. PERFORMANCE.md has the results."""
