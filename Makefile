# make demo: the whole story on handwritten digits.   make test: lint and the quick tests.   make venv: only the environment.
# make test-long: whole commands, and the models under JAX.   make docs: the docs site in site/.
# make test-tpu-vm: the quick tests with what a TPU VM installs, on the CPU; PYTHON_TPU must be Python 3.11.
PYTHON ?= python3
PYTHON_TPU ?= python3.11
RUN = .venv/bin/python
TENSORFLOW = KERAS_BACKEND=tensorflow $(RUN) -m pytest -n 2 --dist=loadfile --no-loadscope-reorder --durations=15
JAX = KERAS_BACKEND=jax $(RUN) -m pytest -n 2 --dist=loadfile

.PHONY: venv demo test test-long test-tpu-vm lint docs

venv: .venv/installed

.venv/installed: requirements.txt requirements-test.txt requirements-dev.txt constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

demo: venv
	$(RUN) -m experiments.demo

lint: venv
	$(RUN) -m ruff check .

docs: venv
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

test: lint
	$(TENSORFLOW)
	$(JAX) tests/layers tests/patches

test-long: venv
	$(TENSORFLOW) -m "long and not slow"
	$(JAX) -m "not slow" tests/models tests/training/test_optimizer.py tests/training/test_accumulate.py \
		tests/training/test_averaging.py

.venv-tpu/installed: requirements-tpu.txt requirements-test.txt
	$(PYTHON_TPU) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-tpu.txt -r requirements-test.txt
	touch $@

# Without the tests of --mode=plan, which needs the libtpu of requirements-dev.txt and runs on any machine.
test-tpu-vm: .venv-tpu/installed
	KERAS_BACKEND=tensorflow ALLOW_MULTIPLE_LIBTPU_LOAD=1 .venv-tpu/bin/python -m pytest -n 2 --dist=loadfile \
		--ignore=tests/tpu --ignore=tests/tasks/test_plan.py
