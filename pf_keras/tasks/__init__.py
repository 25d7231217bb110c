"""One module for each `--mode`. Its `run(request)` does the work and returns the content of `result.json`."""
