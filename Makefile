# make demo: the whole story on digits.  make test: lint and the quick tests.  make venv: only the environment.
PYTHON ?= python3
RUN = .venv/bin/python
CORE = tests/layers tests/models tests/training/test_optimizer.py $(patsubst %,tests/test_%.py,augment masking patches targets)

.PHONY: venv demo test lint

venv: .venv/installed

.venv/installed: requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

demo: venv
	$(RUN) -m experiments.demo

lint: venv
	$(RUN) -m ruff check .

test: lint
	KERAS_BACKEND=tensorflow $(RUN) -m pytest -n 2 --dist=loadfile --no-loadscope-reorder --durations=15
	KERAS_BACKEND=jax $(RUN) -m pytest -n 2 --dist=loadfile $(CORE)
