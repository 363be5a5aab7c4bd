# The README's commands and a contributor's. Each one that needs .venv builds it first, where it is
# missing, unfinished, moved, or older than pyproject.toml and constraints.txt.
#
#   make demo ARGS=--json          options for the command
#   make test ARGS="-k solve"
#   make test PYTHON=/path/python  which Python builds .venv
#   make bench ARGS="--facts 1 10" what to measure; stopped, the same command goes on

BIN := .venv/bin
RUNTIME := .venv/.installed
DEV := .venv/.installed-dev
BENCH := .venv/.installed-bench
PYTHON ?=
ARGS ?=
# Two files of tests at a time: each test has one thread, and a file's tests share what they load.
SPREAD := -n 2 --dist loadfile

DEV_TARGETS := test test-all lint types format
RECENT := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.PHONY: help demo bench clean $(DEV_TARGETS)

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' Makefile

# Beside a target that installs more, demo waits for that: one installation at a time under -j.
MOST := $(if $(filter $(DEV_TARGETS),$(MAKECMDGOALS)),$(DEV),$(RUNTIME))
MOST := $(if $(filter bench,$(MAKECMDGOALS)),$(BENCH),$(MOST))
demo: $(MOST) ## Teach a small model its first fact: Table 1 of the paper
	@$(BIN)/qf demo $(ARGS)

test: $(DEV) ## Run the tests, without the slow ones
	@$(BIN)/python -m pytest $(SPREAD) -m "not slow" $(ARGS)

test-all: $(DEV) ## Run all tests
	@$(BIN)/python -m pytest $(SPREAD) $(ARGS)

lint: $(DEV) ## Check format and style
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(DEV) ## Check types
	@$(BIN)/python -m mypy

format: $(DEV) ## Format the code and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(BENCH) ## Measure every method with ever more facts, and write docs/RESULTS.md
	@$(BIN)/python benchmarks/results.py $(ARGS)

clean: ## Remove .venv and all caches
	@rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# A stamp holds the directory that was installed, as scripts in .venv and its link to src name it.
ifneq ($(shell [ -x $(BIN)/python ] && cat $(RUNTIME) 2>/dev/null),$(CURDIR))
.PHONY: $(RUNTIME) $(DEV) $(BENCH)
endif

$(RUNTIME): pyproject.toml constraints.txt
	$(call install,.,$(RUNTIME))

$(DEV): pyproject.toml constraints.txt
	$(call install,.[dev],$(RUNTIME) $(DEV))

$(BENCH): $(DEV)
	$(call install,.[bench],$(RUNTIME) $(DEV) $(BENCH))

# $(1): what pip installs; $(2): the stamps, written last. While .venv/.unfinished is there, .venv
# counts as broken; it holds the number of the process that is at work.
define install
@set -eu; \
say() { echo "$$*" >&2; }; \
recent() { "$$1" -c '$(RECENT)' >/dev/null 2>&1; }; \
other=$$(cat .venv/.unfinished 2>/dev/null || true); \
if [ -n "$$other" ] && kill -0 "$$other" 2>/dev/null; then \
	say "Process $$other is already installing into .venv: wait for it, or run make clean."; exit 1; \
fi; \
if [ ! -e .venv/.unfinished ] && recent $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	say "Bringing .venv up to date with pyproject.toml and constraints.txt ..."; \
else \
	if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; \
	else set -- python3.11 python3 python3.12 python3.13 python3.14; fi; \
	python=; for each do if recent "$$each"; then python=$$each; break; fi; done; \
	if [ -z "$$python" ]; then \
		say "qf needs Python 3.11 or newer and found none (tried: $$*): install it, or name one with PYTHON=/path/to/python."; exit 1; \
	fi; \
	say "Creating .venv and installing qf (about 2 minutes the first time) ..."; \
	"$$python" -m venv --clear .venv >&2 || { \
		say "$$python could not create .venv: install its venv module (on Debian and Ubuntu: apt install python3-venv)."; exit 1; }; \
fi; \
echo $$$$ >.venv/.unfinished; \
rm -f $(RUNTIME) $(DEV) $(BENCH); \
if ! $(BIN)/python -m pip install --disable-pip-version-check --no-input -c constraints.txt -e '$(1)' >.venv/install.log 2>&1; then \
	tail -n 30 .venv/install.log >&2; \
	say "The installation failed, as shown above and in .venv/install.log: run make again once the cause is mended."; exit 1; \
fi; \
for stamp in $(2); do pwd -P >$$stamp; done; \
rm .venv/.unfinished
endef
