# make demo: the whole story on digits.  make test: lint and the quick tests.  make venv: only the environment.
PYTHON ?= python3
RUN = .venv/bin/python

.PHONY: venv demo test lint

venv: .venv/installed

.venv/installed: requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

demo: venv
	$(RUN) experiments/demo.py

lint: venv
	$(RUN) -m ruff check .

test: lint
	KERAS_BACKEND=tensorflow $(RUN) -m pytest
	KERAS_BACKEND=jax $(RUN) -m pytest tests/test_*.py tests/layers tests/models tests/training
