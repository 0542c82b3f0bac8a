# `make test` tests the template, `make test-all` does so without sharing runs between combinations, `make lint` checks
# style, types and spelling. Each installs what it needs: into .venv, and servers by apt where that may be.
# `make test-faults` goes through all faults, also over the worker of django-q2 itself, and in containers where there is
# a Docker engine, and writes what was seen into docs/reliability.md; it takes some hours. ARGS="-k redis" takes some:
# the page tells of all runs in build/faults. TESTS_DJANGO=6.1 tests with that Django.
# `make bench` measures, and writes docs/performance.md, in half an hour on a machine that does nothing else; QUICK=1
# measures few systems in less than six minutes, and writes no page, nor does ARGS="--rounds 2 redis" or
# ARGS="--part served". ARGS="--write --part served --part waited" writes the tables of these parts into the page, with
# their day. ARGS="--beside REVISION" measures a former version by turns with this one. The figures of each run, also of
# one that breaks, stay in build/benchmarks/figures.json.
# `make demo` bakes the default project, runs it and a task, and serves until Ctrl-C; `make demo ONCE=1` stops after the
# result, PORT=8001 takes another port. `make examples` bakes the projects in examples/ anew. `make docker` deploys the
# project of each broker with Docker; ARGS="redis --with queues=fast_and_slow" takes one of them. `make docs` builds the
# site of docs/ into build/docs, `make links` asks what the pages link to elsewhere, `make configuration` writes
# docs/configuration.md from what projects have. `make screenshots` takes the pictures in docs/images/ anew.

export UV_PYTHON_DOWNLOADS := never

.PHONY: bench configuration demo docker docs examples links screenshots test test-all test-faults lint install servers

demo:
	@python3 scripts/demo.py

docker: .venv/bake
	.venv/bin/python -m scripts.docker_check $(ARGS)

examples: .venv/bake
	.venv/bin/python scripts/examples.py

screenshots: install servers
	.venv/bin/python -m scripts.screenshots

test: install servers
	.venv/bin/python -m pytest $(ARGS)

test-all: install servers
	.venv/bin/python -m pytest --share-nothing $(ARGS)

docs: install
	.venv/bin/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

configuration: install
	.venv/bin/python -m scripts.configuration

links: install
	.venv/bin/python -m sphinx --quiet --builder linkcheck docs build/links

bench: install servers
	.venv/bin/python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

test-faults: install servers
	.venv/bin/python -m pytest --faults tests/faults $(ARGS); seen=$$?; .venv/bin/python -m tests.faults.table && exit $$seen

lint: install
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy benchmarks hooks scripts tests
	.venv/bin/python -m codespell_lib

servers: install
	.venv/bin/python -m tests.servers

install: .venv/installed

.venv/installed: .venv/bake
	.venv/bin/python -m uv pip install --quiet --python .venv/bin/python --group dev
	touch $@

.venv/bake: pyproject.toml
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^ *"\(uv==[^"]*\)".*/\1/p' pyproject.toml)"
	.venv/bin/python -m uv pip install --quiet --python .venv/bin/python --group bake
	touch $@
