# Every command here runs in .venv, which the first one makes from envs/requirements.lock.
# Snakemake's own settings (cores, progress, when to run again) live in profiles/default.

PYTHON ?= python3
CONFIG ?=
CORES ?=
ARGS ?=

READY := .venv/.ready
IN_ENVIRONMENT := . .venv/bin/activate &&
PIP := .venv/bin/python -m pip --disable-pip-version-check --no-input
SNAKEMAKE = $(IN_ENVIRONMENT) snakemake
# After the target: --configfile takes every word that follows it.
OPTIONS = $(if $(CORES),--cores $(CORES)) $(if $(CONFIG),--configfile $(CONFIG)) $(ARGS)
EXPERIMENT = $(shell sed -n 's/^experiment: *"\{0,1\}\([A-Za-z0-9._-]*\).*/\1/p' $(or $(CONFIG),config.yaml))
RULES = Snakefile workflow/rules

.DEFAULT_GOAL := help
.PHONY: help environment fetch tables figures report checkpoints-push checkpoints-pull test \
  test-cluster benchmark lint format lock clean

help:  ## Show this list
	@echo "Usage: make TARGET [CONFIG=file.yaml] [CORES=n] [ARGS='more options of the command']"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-17s %s\n", $$1, $$2}'

environment: $(READY)  ## Make .venv (every other target does so by itself)

fetch: $(READY)  ## Say what an experiment's data sets cost in disk, then fetch them
	$(IN_ENVIRONMENT) task-arithmetic download-costs $(or $(CONFIG),config.yaml)
	$(SNAKEMAKE) fetch $(OPTIONS)

tables: $(READY)  ## Run the experiment up to the tables of the papers and show them
	$(SNAKEMAKE) all_tables $(OPTIONS)

figures: $(READY)  ## Run the experiment up to the figures
	$(SNAKEMAKE) all_figures $(OPTIONS)

report: $(READY)  ## Run everything and collect it in results/EXPERIMENT/report.html
	$(SNAKEMAKE) all $(OPTIONS)
	$(SNAKEMAKE) all --report results/$(EXPERIMENT)/report.html $(OPTIONS)

# Only what the audit finds whole, recorded and up to date is published; a summary that is not is left.
checkpoints-push: $(READY)  ## Keep checkpoints and summaries in DVC and push them (ARGS='--remote NAME')
	$(IN_ENVIRONMENT) task-arithmetic audit --quiet results/$(EXPERIMENT)/checkpoints
	$(IN_ENVIRONMENT) dvc commit --force checkpoint
	@$(IN_ENVIRONMENT) if task-arithmetic audit --quiet results/$(EXPERIMENT)/summary; then \
	  dvc commit --force summary; fi
	$(IN_ENVIRONMENT) dvc push $(ARGS)
	@echo "Commit dvc.lock to git: it says which checkpoints belong to this commit."

# Pulled checkpoints are adopted without training only if they are what DVC and their records say and
# were made of the same data, encoder and heads as here. Touching tells Snakemake so.
checkpoints-pull: $(READY)  ## Pull checkpoints, verify them and adopt them (ARGS='--remote NAME')
	$(IN_ENVIRONMENT) dvc pull $(ARGS)
	@$(IN_ENVIRONMENT) dvc status --quiet checkpoint || { dvc status checkpoint; \
	  echo "make: expected the checkpoints that dvc.lock and config.yaml describe; see above what differs" >&2; \
	  exit 1; }
	$(SNAKEMAKE) summary --until head
	$(IN_ENVIRONMENT) task-arithmetic audit --quiet --why results/$(EXPERIMENT)/checkpoints
	$(SNAKEMAKE) summary --until finetune --forcerun finetune --touch

test: $(READY)  ## Run the tests (ARGS='-k name' for some of them)
	$(IN_ENVIRONMENT) pytest $(ARGS)

test-cluster: $(READY)  ## Run the tests that start a SLURM of their own (root, Debian's SLURM)
	$(IN_ENVIRONMENT) pytest --numprocesses 0 -m slurm $(ARGS)

benchmark: $(READY)  ## Measure speed and memory against reference implementations (long)
	$(IN_ENVIRONMENT) python benchmarks/tangent.py $(ARGS)
	$(IN_ENVIRONMENT) python benchmarks/selection.py
	$(IN_ENVIRONMENT) python benchmarks/loading.py

lint: $(READY)  ## Check style and workflow; changes nothing
	$(IN_ENVIRONMENT) ruff check
	$(IN_ENVIRONMENT) ruff format --check
	$(IN_ENVIRONMENT) snakefmt --check $(RULES)
	$(IN_ENVIRONMENT) snakemake --lint

format: $(READY)  ## Bring sources into the style that lint expects
	$(IN_ENVIRONMENT) ruff check --fix-only
	$(IN_ENVIRONMENT) ruff format
	$(IN_ENVIRONMENT) snakefmt $(RULES)

# Without ARGS=--upgrade the versions already in the lock stay as they are.
lock: $(READY)  ## Pin envs/requirements.in again (ARGS=--upgrade for the newest versions)
	$(IN_ENVIRONMENT) uv pip compile envs/requirements.in --generate-hashes --no-emit-index-url \
	  --python-version 3.11 --custom-compile-command "make lock" --quiet $(ARGS) \
	  --output-file envs/requirements.lock
	$(IN_ENVIRONMENT) python envs/make_environment.py

clean:  ## Remove .venv and tool caches; results stay
	rm -rf .venv .pytest_cache .ruff_cache build dist workflow/*.egg-info
	find envs tests workflow -name __pycache__ -prune -exec rm -rf {} +

# Two q's hide pip's warnings, of which some mirrors cause hundreds, and keep its errors.
# The package builds with the locked setuptools, so nothing unlocked is fetched for it.
$(READY): envs/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: expected Python 3.11 or newer as $(PYTHON), found $$($(PYTHON) --version 2>&1);" \
	    "name another one: make PYTHON=python3.11" >&2; exit 1; }
	@echo "Making .venv from envs/requirements.lock: 2-3 minutes and about 6 GB the first time."
	@$(PYTHON) -m venv .venv
	@$(PIP) install -qq --require-hashes --requirement envs/requirements.lock
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@
