# Shortcuts for the commands in .venv.  Each of them can be run without make.

PYTHON = .venv/bin/python

.PHONY: check test docs wheel clean

check: .venv/ready-dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	.venv/bin/lint-imports
	$(PYTHON) -m mypy

test:
	sh scripts/test

docs: .venv/ready-dev
	$(PYTHON) -m pydoctor

wheel: .venv/ready-dev
	$(PYTHON) -m build --outdir dist

.venv/ready-dev: pyproject.toml scripts/venv.sh
	sh -euc '. scripts/venv.sh; venvReady dev'
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
