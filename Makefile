# Settings go on the command line (make train-online-tldr LR=1e-6 GPUS=4), into the environment or into .env.
# PYTHON=python3 uses an interpreter that has the packages already, instead of .venv.

PYTHON := .venv/bin/python
STAMP := .venv/.installed

# The jobs refuse names that they do not know, so they are told which ones were given here.
export SDPO_MAKE_VARIABLES := $(strip $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name))))

JOBS := prep-tldr prep-helpsteer prep-wildfeedback prep-wildchat prep-logs train-online-tldr train-online-helpsteer simulator study
JOBS += train-offline-wildfeedback train-offline-wildchat train-offline
JOBS += eval-tldr eval-helpsteer eval signal-analysis audit
BENCHMARKS := $(filter-out variants,$(patsubst benchmarks/%.py,%,$(wildcard benchmarks/*.py)))

.DEFAULT_GOAL := help
.PHONY: help setup ready demo test test-containers bench lint clean build up down logs shell smoke-docker $(JOBS)

# DOCKER=1 make <job> runs it in a container, with the same settings, data and runs.
ifneq ($(filter-out 0 false no,$(DOCKER)),)
override PYTHON := docker/compose.sh run job python
ready: build
endif

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r target text; do \
		printf '  %-27s %s\n' "$$target" "$$text"; done
	@echo
	@echo 'A job lists its settings with:  $(PYTHON) -m jobs.train_online_tldr --help'

setup: $(STAMP) ## create .venv and install the locked packages
$(STAMP): requirements.lock pyproject.toml
	@echo 'Installing the locked packages into .venv; this takes a few minutes the first time.'
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'error: python3 is missing or older than 3.11. Put a newer one first on PATH.' >&2; exit 2; }
	@python3 -m venv .venv || \
		{ echo 'error: python3 -m venv cannot make .venv here. The lines above say why.' >&2; exit 2; }
	@{ .venv/bin/python -m pip install --quiet --requirement requirements.lock && \
		.venv/bin/python -m pip install --quiet --no-deps --editable .; } || \
		{ echo 'error: pip cannot install the packages. The lines above say why; then run make setup again.' >&2; exit 2; }
	@touch $(STAMP)

# A dry run writes nothing, so it does not set up either.
ifeq ($(filter-out 0 false no,$(DRY_RUN)),)
ready: $(if $(filter .venv/bin/python,$(PYTHON)),$(STAMP))
endif
ready:
	@command -v $(firstword $(PYTHON)) >/dev/null || \
		{ echo 'error: there is no $(PYTHON) here. Run make setup first, or give another PYTHON.' >&2; exit 2; }

# The real job, not a look-alike: only its settings differ, so what is seen here is what a GPU run does. The taste
# is one that a short run learns; a STYLE that is given, like every other setting (make demo SEED=3), goes before it.
demo: ready ## show the whole method on the tiny model, on a CPU
	@TINY=1 STYLE="$${STYLE:-no_emojis}" $(PYTHON) -m jobs.train_online_tldr

prep-tldr: ready ## write the TL;DR prompts
	@$(PYTHON) -m jobs.prep_tldr

prep-helpsteer: ready ## write the HelpSteer2 prompts
	@$(PYTHON) -m jobs.prep_helpsteer

prep-wildfeedback: ready ## write the WildFeedback interactions
	@$(PYTHON) -m jobs.prep_wildfeedback

prep-wildchat: ready ## write the WildChat interactions
	@$(PYTHON) -m jobs.prep_wildchat

prep-logs: ready ## write the interactions of your own conversations (INPUT=...)
	@$(PYTHON) -m jobs.prep_logs

train-online-tldr: ready ## train online on TL;DR with a simulated user
	@$(PYTHON) -m jobs.train_online_tldr

train-online-helpsteer: ready ## train online on general prompts with Claude as the simulated user
	@$(PYTHON) -m jobs.train_online_helpsteer

signal-analysis: ready ## draw what a follow-up does to each token of an answer
	@$(PYTHON) -m jobs.signal_analysis

audit: ready ## judge, without training, whether SDPO can work here (MODEL=... DATA=...)
	@$(PYTHON) -m jobs.audit

train-offline-wildfeedback: ready ## train on the interactions of WildFeedback
	@$(PYTHON) -m jobs.train_offline_wildfeedback

train-offline-wildchat: ready ## train on the interactions of WildChat
	@$(PYTHON) -m jobs.train_offline_wildchat

train-offline: ready ## train on conversations of your own (TRAIN_JSONL=...)
	@$(PYTHON) -m jobs.train_offline

simulator: ready ## serve the simulated user's model until Ctrl-C
	@$(PYTHON) -m jobs.simulator

study: ready ## compare teachers and objectives on the tiny world (hours; goes on where it was)
	@$(PYTHON) -m jobs.study

eval-tldr: ready ## compare a TL;DR run's checkpoints with its start (RUN_DIR=...)
	@$(PYTHON) -m jobs.eval_tldr

eval-helpsteer: ready ## the same on general prompts, by Claude's verdict (RUN_DIR=...)
	@$(PYTHON) -m jobs.eval_helpsteer

eval: ready ## the one of these two that fits the run (RUN_DIR=...)
	@$(PYTHON) -m jobs.eval

build: ## build the image of the containers
	@docker/compose.sh build --quiet trainer

up: build ## bring up simulator and trainer in containers (JOB=..., RUN_ID=...)
	@docker/compose.sh up --detach && echo 'up; make logs shows what they do, make down ends them'

down: ## stop the containers, saving a checkpoint, and remove them; runs, data and models stay
	@docker/compose.sh down

logs: ## follow what the containers say
	@docker/compose.sh logs --follow --tail 100

shell: build ## open a shell in a container
	@docker/compose.sh run job bash

smoke-docker: ## bring up the tiny world in containers, wait for it, take it down
	@docker/smoke.sh

test: ready ## run the tests
	@$(PYTHON) -m pytest

bench: ready ## measure against plain baselines (ONLY=scoring for one)
	@set -e; export SDPO_MAKE_VARIABLES=; for name in $(or $(ONLY),$(BENCHMARKS)); do echo "== $$name"; $(PYTHON) -m benchmarks.$$name; done

test-containers: ready ## run the tests that need a Docker engine
	@$(PYTHON) -m pytest tests/test_containers.py tests/test_containers_run.py --numprocesses=0

lint: ready ## check style and formatting
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

clean: ## remove .venv and caches; runs and data stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find jobs sdpo tests -name __pycache__ -type d -prune -exec rm -rf {} +
