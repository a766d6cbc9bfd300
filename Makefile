# Every command that a newcomer or CI needs. `make` alone explains them.
.DEFAULT_GOAL := help
.PHONY: help install run demo soak test test-fast test-system test-deep test-calendar mutants check bench apps lock clean

PYTHON ?= python3
BIN := .venv/bin
OURS := beat_schedule.py benchmarks commands migrations models roomkeeper stack tasks tests workers

help: ## Explain the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | \
		while IFS="$$(printf '\t')" read -r name what; do printf '  make %-13s %s\n' "$$name" "$$what"; done

install: .venv/.installed ## Install the locked environment into .venv, and clamd where it is missing
	@PATH="$$PATH:/usr/sbin" sh scripts/install-clamd.sh
	@# Our own modules too; only what has changed takes time.
	@$(BIN)/python -m compileall -q $(OURS)

.venv/.installed: requirements-dev.lock pyproject.toml scripts/install-python.sh
	@PYTHON="$(PYTHON)" sh scripts/install-python.sh
	@touch $@

run: install ## Start everything, feed sample files in, stay until Ctrl-C
	@exec $(BIN)/roomkeeper stack run

demo: install ## The same without staying: exit 0 only if every sample and every stale row met its fate, and every rollup counted
	@exec $(BIN)/roomkeeper stack demo

soak: install ## Run everything at once for an hour, disturbed, then count; by hand: MINUTES=60 SEED=1, ARGS='--only clock' (root fills a disk, too)
	@sh scripts/install-peers.sh
	@exec $(BIN)/python -m stack.soak --minutes $(or $(MINUTES),60) --seed $(or $(SEED),1) $(ARGS)

test: install ## Run lint, types, and every test but test-system's; installs Debian's PostgreSQL 15 where it is missing
	@sh scripts/install-postgresql-15.sh
	@exec sh scripts/test.sh

test-system: install ## Run the tests of whole programs: outages, the stack, clients, packages, benchmarks at a tiny size
	@sh scripts/install-postgresql-15.sh
	@sh scripts/install-peers.sh
	@exec $(BIN)/pytest -m system -n 2 --dist loadfile --no-loadscope-reorder --timeout 300

test-fast: .venv/.installed ## Run the tests nearest to what was changed since the last commit, for less than a minute
	@exec $(BIN)/python -m tests.fast

test-deep: install ## Run property tests with many new examples, and the fuzzers: by hand, for hours; goes on where it was broken off
	@exec $(BIN)/python -m tests.deep

test-calendar: install ## Run the tests that read the clock on odd days and around midnight; an hour, and a C compiler
	@exec $(BIN)/python -m tests.clocks

mutants: install ## Put known faults into a copy of the code, one by one, and see that the tests notice each; by hand, an hour
	@exec $(BIN)/python -m tests.mutants

bench: install ## Measure everything beside a peer or a limit, some minutes each; ends with a table of the aims
	@sh scripts/install-peers.sh
	@exec $(BIN)/python -m benchmarks

check: .venv/.installed ## Lint, types, imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

apps: .venv/.installed ## Write the file that `roomkeeper apps` prints, after a change of the applications' definitions
	@$(BIN)/python -m commands.app_tables

lock: .venv/.installed ## Pin the newest allowed versions, with hashes, into the lock files
	@$(BIN)/uv pip compile -q --upgrade --generate-hashes --no-annotate --no-header --python-version 3.11 \
		pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --upgrade --generate-hashes --no-annotate --no-header --python-version 3.11 \
		--extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

clean: ## Remove the environment and the local stack's data
	rm -rf .venv .roomkeeper
