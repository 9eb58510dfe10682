# The two commands of the README are `make demo` and `make test`; each sets up its own .venv on a machine that has
# Python 3.11 or later and make. `make check` runs linters and type checkers, `make test-long` the long suites whole.

VENV := .venv
BIN := $(VENV)/bin
# The newest Python that will do, by its own word.
FIND := for python in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
	command -v $$python >/dev/null 2>&1 && $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && exit; done; echo "turnlog needs Python 3.11 or later; none was found" >&2; exit 1

# Hundreds of processes import the same modules: whatever the shell says, what was compiled once is kept.
export PYTHONDONTWRITEBYTECODE :=
# How many workers "auto" is, tests/conftest.py says.
WORKERS := -n auto --maxprocesses 8 --dist worksteal

.PHONY: demo test test-long check wheel clean

demo: $(VENV)/.demo
	@$(BIN)/turnlog demo

test: $(VENV)/.test
	@$(BIN)/pytest $(WORKERS)

test-long: $(VENV)/.test
	@$(BIN)/pytest $(WORKERS) --long

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict tests/typing_tests
	$(BIN)/basedpyright

# The tests against the built wheel, in an environment and a folder where the sources are not.
wheel: $(VENV)/.dev
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel . >build/wheel/log 2>&1 || { cat build/wheel/log; exit 1; }
	$(BIN)/python -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --disable-pip-version-check "$$(ls build/wheel/*.whl)[test]"
	cp -R tests pyproject.toml README.md build/wheel/
	cd build/wheel && TURNLOG_WHEEL=1 venv/bin/pytest -q $(WORKERS)

$(VENV)/.%: pyproject.toml
	@test -x $(BIN)/python || { python=$$($(FIND)) && echo "setting up $(VENV) with $$python" && $$python -m venv $(VENV); }
	@echo "installing turnlog[$*] (a minute at most, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
