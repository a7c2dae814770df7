# `make quickstart` and `make test` are all a newcomer needs; both make .venv on first use.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
READY  := $(VENV)/.ready

# Where it is set, every process would compile torch's sources anew, which takes longer than many a test.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test lint types contracts check lock clean

# uv installs the pinned set in a fraction of pip's time and reads no local wheel folders, so that torch and
# torchvision come as the matching pair that the lock file names.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check uv==0.13.8
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --require-hashes -r requirements.lock
	$(VENV)/bin/uv pip install --quiet --python $(RUN) --no-deps --no-build-isolation --editable .
	touch $@

quickstart: $(READY)
	$(RUN) prune.py recipes/quickstart.yaml model=weights/quickstart.pth

# One thread in each process: several would wait for each other on the same cores.
test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: $(READY)
	$(VENV)/bin/mypy

contracts: $(READY)
	$(VENV)/bin/lint-imports

check: lint types contracts test

lock: $(READY)
	$(VENV)/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --output-file requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
