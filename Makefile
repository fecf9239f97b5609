# A thin cover over .venv, for hands that type `make`.  Everything here can be run without it.

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
