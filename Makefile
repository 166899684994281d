# `make` alone lists what there is. Every target that needs the environment makes it first.
PYTHON ?= python3
STUDY ?= block_expansion
ARGS ?=
EXTRAS ?= dev
USE_UV ?= 1

VENV := .venv
BIN := $(VENV)/bin
# Other extras get a stamp of their own, so that asking for more installs more.
STAMP := $(VENV)/.installed$(if $(filter-out dev,$(EXTRAS)),-$(EXTRAS))

# Ray 2.47+ starts every worker through `uv run` when it believes the driver was: slow, and starves nodes.
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0

# Where PYTHONDONTWRITEBYTECODE is set, every worker of Ray and every test would compile all that it imports anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup study test test-cluster faults check format docs mlflow perf gpu lock clean

help: ## List the targets
	@echo 'Usage: make TARGET [STUDY=$(STUDY)] [ARGS="..."] [PYTHON=$(PYTHON)]'
	@awk -F ':.*## ' '/^[a-z][a-z_-]*:.*## / { printf "  %-8s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## Make .venv with the pinned versions (EXTRAS=dev,cluster adds what `ray up` needs)

study: $(STAMP) ## Run a study and show its leaderboard (STUDY=lora, ARGS="--trials 4")
	$(BIN)/python launch.py --study $(STUDY) $(ARGS)

# One process a core, up to eight: what needs one Ray stays in one process (pytest-xdist's groups; tests/conftest.py).
test: $(STAMP) ## Run the tests on all cores, long ones first (ARGS="-k knn")
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadgroup $(ARGS)

# Hosts are network namespaces: nothing leaves this machine. The transcript shows every command and what it printed.
test-cluster: ## Run studies on two hosts made of namespaces, by `ray up` (root, sshd; skips itself without)
	@$(MAKE) --no-print-directory setup EXTRAS=dev,cluster
	$(BIN)/python -m pytest --capture=no -v tests/unit/test_cluster_yaml.py tests/cluster $(ARGS)

faults: $(STAMP) ## Injure running launches and see what becomes of them (20 minutes; ARGS="signals")
	$(BIN)/python -m tests.faults $(ARGS)

check: $(STAMP) ## Lint, formatting and strict types, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Mend formatting and what lint can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Nothing is fetched: pages, and what they say of fields, commands and the public API, come from this folder.
docs: ## Make the documentation as a site, docs/_build/index.html; a warning is an error
	@$(MAKE) --no-print-directory setup EXTRAS=dev,docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/_build $(ARGS)

mlflow: $(STAMP) ## Browse runs, curves and tables in results/mlflow.db
	$(BIN)/mlflow ui --backend-store-uri sqlite:///results/mlflow.db $(ARGS)

# The peers are an extra of their own: the stamp of `setup` depends on it, and is settled when make starts.
perf: ## Measure against peers, write results/perf/ (two to three hours; ARGS="--quick", "--only knn")
	@$(MAKE) --no-print-directory setup EXTRAS=dev,perf
	$(BIN)/python -m tests.performance $(ARGS)

# Any Python that has torch, torchvision, timm and peft will do: nothing is installed for it.
gpu: ## Check and measure on one NVIDIA GPU (5 minutes; ARGS=--cpu: small, without one)
	@python=$(BIN)/python; [ -x $$python ] || python='$(PYTHON)'; $$python -m tests.gpu $(ARGS)

lock: $(STAMP) ## Resolve the newest versions anew and write constraints.txt
	@$(find_uv); \
	test -n "$$uv" || { echo 'make lock needs uv, which is neither on PATH nor installable.' >&2; exit 1; }; \
	{ sed -n '/^#/p' constraints.txt && \
	  "$$uv" pip compile --quiet --upgrade --python $(BIN)/python --all-extras --no-header --no-annotate pyproject.toml; \
	} > constraints.new && mv constraints.new constraints.txt || { rm -f constraints.new; exit 1; }

clean: ## Remove caches and build leftovers; .venv and results stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache build dist docs/_build docs/reference *.egg-info
	find bench tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Sets $uv to a uv to use, installing one into .venv if need be, or to nothing.
define find_uv
uv=; if [ "$(USE_UV)" = 1 ]; then \
  uv=$$(command -v uv) || \
  { [ -x $(BIN)/uv ] || $(BIN)/python -m pip install --quiet uv; } >/dev/null 2>&1 && uv=$${uv:-$(BIN)/uv} || uv=; \
fi
endef

# The environment is kept if there is one: only what changed in the two files is installed.
$(STAMP): pyproject.toml constraints.txt
	@python=$(BIN)/python; [ -x $$python ] || python='$(PYTHON)'; \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "Python 3.11 or newer is needed, and $$python is not: name another, as in \`make setup PYTHON=python3.12\`." >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@$(find_uv); began=$$(date +%s); \
	if [ -n "$$uv" ]; then \
	  echo "Installing the pinned versions into $(VENV) with uv (about a minute) ..."; \
	  "$$uv" pip install --quiet --python $(BIN)/python --compile-bytecode \
	    --constraints constraints.txt --build-constraints constraints.txt -e '.[$(EXTRAS)]'; \
	else \
	  echo "Installing the pinned versions into $(VENV) with pip (some minutes; uv would be faster) ..."; \
	  PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --constraint constraints.txt -e '.[$(EXTRAS)]'; \
	fi && echo "Installed in $$(( $$(date +%s) - began )) s."
	@touch $@
