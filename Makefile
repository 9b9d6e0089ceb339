# Settings go on the command line (make train-online-tldr LR=1e-6 GPUS=4), into the environment or into .env.
# PYTHON=python3 uses an interpreter that already has the packages, instead of .venv.

PYTHON := .venv/bin/python
STAMP := .venv/.installed

# The jobs reject unknown settings, so they need the names of the variables given on the command line.
export SDPO_MAKE_VARIABLES := $(strip $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name))))

JOBS := demo prep-tldr prep-helpsteer prep-wildfeedback prep-wildchat prep-logs prep-english push-data train-online-tldr train-online-helpsteer simulator study study-real demo-real check-gpu
JOBS += train-offline-wildfeedback train-offline-wildchat train-offline
JOBS += gateway gateway-key forget export-conversations demo-loop
JOBS += eval-tldr eval-helpsteer eval signal-analysis audit report chat learn promote rollback versions canary
BENCHMARKS := $(filter-out variants counting,$(patsubst benchmarks/%.py,%,$(wildcard benchmarks/*.py)))

.DEFAULT_GOAL := help
.PHONY: help setup ready check docs test test-fast test-containers bench plan lint types clean build up up-loop down logs shell smoke-docker $(JOBS)

# DOCKER=1 make <job> runs it in a container, with the same settings, data and runs.
ifneq ($(filter-out 0 false no,$(DOCKER)),)
override PYTHON := docker/compose.sh run job python
ready: build
endif

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r target text; do \
		printf '  %-27s %s\n' "$$target" "$$text"; done
	@echo
	@echo 'A job lists its settings with:  $(PYTHON) -m jobs train-online-tldr --help'

# A target that does not exist; `error` also ends make -n.
NEAREST = import difflib, re, sys; name, path = sys.argv[1:]; \
	known = re.findall(r"^([a-z-]+):.*\x23\x23", open(path).read(), re.M); \
	print("".join(f" Did you mean {one}?" for one in difflib.get_close_matches(name, known, 1, 0.5)))
.DEFAULT:
	$(error There is no target $@.$(shell python3 -c '$(NEAREST)' '$(subst ',,$@)' '$(firstword $(MAKEFILE_LIST))') `make help` lists all)

setup: $(STAMP) ## create .venv and install the locked packages
$(STAMP): requirements.lock pyproject.toml
	@if [ -L .venv ]; then remove=Remove; \
		[ ! -x .venv/bin/python ] || remove="Set PYTHON=$$(readlink -f .venv)/bin/python to use what is there, or remove"; \
		echo "error: .venv is a link to $$(readlink .venv), where make setup installs nothing." \
			"$$remove the link (rm .venv) and run make setup again." >&2; exit 2; fi
	@echo 'Installing the locked packages into .venv; the first time takes a few minutes.'
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'error: python3 is missing or older than 3.11. Put a newer version first on PATH.' >&2; exit 2; }
	@python3 -m venv .venv || \
		{ echo 'error: python3 -m venv cannot create .venv. See the lines above for the cause.' >&2; exit 2; }
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || \
		{ echo 'error: .venv comes from elsewhere: its python does not run here, or has no pip.' \
			'Remove it (rm -r .venv), then run make setup again.' >&2; exit 2; }
	@{ .venv/bin/python -m pip install --quiet --requirement requirements.lock && \
		.venv/bin/python -m pip install --quiet --no-deps --editable .; } || \
		{ echo 'error: pip cannot install the packages. Fix the cause shown above, then run make setup again.' >&2; exit 2; }
	@touch $(STAMP)

# A dry run writes nothing, so it does not create .venv either.
ifeq ($(filter-out 0 false no,$(DRY_RUN)),)
ready: $(if $(filter .venv/bin/python,$(PYTHON)),$(STAMP))
endif
ready:
	@command -v $(firstword $(PYTHON)) >/dev/null || \
		{ echo 'error: $(PYTHON) does not exist. Run make setup first, or set another PYTHON.' >&2; exit 2; }

# Each target runs a job of the `sdpo` command (python -m jobs lists them): make eval LR=1 is sdpo eval LR=1.
demo: ready ## run the complete method with the tiny model on a CPU
	@$(PYTHON) -m jobs.demo

demo-real: ready ## train a small real model on a CPU or GPU, with a rule as the user (MODEL=..., STYLE=...)
	@$(PYTHON) -m jobs.demo_real

prep-tldr: ready ## prepare the TL;DR prompts
	@$(PYTHON) -m jobs.prep_tldr

prep-english: ready ## prepare this project's own English prompts (no hub needed)
	@$(PYTHON) -m jobs.prep_english

prep-helpsteer: ready ## prepare the HelpSteer2 prompts
	@$(PYTHON) -m jobs.prep_helpsteer

prep-wildfeedback: ready ## prepare the WildFeedback interactions
	@$(PYTHON) -m jobs.prep_wildfeedback

prep-wildchat: ready ## prepare the WildChat interactions
	@$(PYTHON) -m jobs.prep_wildchat

prep-logs: ready ## prepare interactions from your own conversations (INPUT=...)
	@$(PYTHON) -m jobs.prep_logs

push-data: ready ## upload prepared data to the hub, privately (DATA=... REPO=owner/name)
	@$(PYTHON) -m jobs.push_data

train-online-tldr: ready ## train online on TL;DR with a simulated user
	@$(PYTHON) -m jobs.train_online_tldr

train-online-helpsteer: ready ## train online on general prompts with Claude as the simulated user
	@$(PYTHON) -m jobs.train_online_helpsteer

signal-analysis: ready ## plot how a follow-up changes each token of an answer
	@$(PYTHON) -m jobs.signal_analysis

audit: ready ## check, without training, whether SDPO can work (MODEL=... DATA=...)
	@$(PYTHON) -m jobs.audit

train-offline-wildfeedback: ready ## train offline on the WildFeedback interactions
	@$(PYTHON) -m jobs.train_offline_wildfeedback

train-offline-wildchat: ready ## train offline on the WildChat interactions
	@$(PYTHON) -m jobs.train_offline_wildchat

train-offline: ready ## train offline on your own conversations (TRAIN_JSONL=...)
	@$(PYTHON) -m jobs.train_offline

simulator: ready ## serve the simulated user's model until Ctrl-C
	@$(PYTHON) -m jobs.simulator

demo-loop: ready ## the tiny model learns from users who chat through a gateway, on a CPU (DEMO_STAY=1 to chat with it)
	@$(PYTHON) -m jobs.demo_loop

gateway: ready ## pass your chat client on to a model's server and keep what is said (UPSTREAM=...)
	@$(PYTHON) -m jobs.gateway

gateway-key: ready ## make a key for the gateway, shown once (NAME=...; REVOKE=1 withdraws it)
	@$(PYTHON) -m jobs.gateway_key

forget: ready ## remove a user's conversations from the store (USER=...)
	@$(PYTHON) -m jobs.forget

export-conversations: ready ## write the store's conversations for prep-logs
	@$(PYTHON) -m jobs.export_conversations

study-real: ready ## measure the signal and training on real models (MODEL=...; takes hours; resumes where it was stopped)
	@$(PYTHON) -m jobs.study_real

plan: ready ## what a training job will take, without loading a model (JOB=train-offline and its settings)
	@$(PYTHON) -m jobs.plan

check-gpu: ready ## run what needs a GPU, and measure steps by model size (under nine minutes; CHECKS=...)
	@$(PYTHON) -m jobs.check_gpu

study: ready ## compare teachers and objectives on the tiny world (takes hours; resumes where it was stopped)
	@$(PYTHON) -m jobs.study

eval-tldr: ready ## compare a TL;DR run's checkpoints with its starting model (RUN_DIR=...)
	@$(PYTHON) -m jobs.eval_tldr

eval-helpsteer: ready ## the same on general prompts, with Claude as the judge (RUN_DIR=...)
	@$(PYTHON) -m jobs.eval_helpsteer

eval: ready ## eval-tldr or eval-helpsteer, depending on the run (RUN_DIR=...)
	@$(PYTHON) -m jobs.eval

report: ready ## one page about training runs, evaluations or nights of learning (RUN_DIR=...)
	@$(PYTHON) -m jobs.report

chat: ready ## talk to the served model, before and after side by side (PAGE=1 in a browser)
	@$(PYTHON) -m jobs.chat

learn: ready ## learn from what was said (STORE_URL=... or INPUT=...), and let what is better go live
	@$(PYTHON) -m jobs.learn

promote: ready ## let a version of the registry go live (VERSION=...), or with CANARY=0.1 answer a share first
	@$(PYTHON) -m jobs.promote

rollback: ready ## go back to what was live before, or take a canary back
	@$(PYTHON) -m jobs.rollback

versions: ready ## list the versions and what is live
	@$(PYTHON) -m jobs.versions

canary: ready ## compare a canary with what is live (STORE_URL=...; FINISH=1 decides)
	@$(PYTHON) -m jobs.canary

build: ## build the container image
	@docker/compose.sh build --quiet trainer

up: build ## start simulator and trainer in containers (JOB=..., RUN_ID=...)
	@docker/compose.sh up --detach && echo 'started; make logs shows their output, make down stops them'

up-loop: build ## start a model's server, the gateway and a nightly learner in containers (MODEL=...)
	@docker/compose.sh loop --detach && echo 'started; the gateway answers at http://127.0.0.1:$(or $(GATEWAY_PORT),8787)/v1'

down: ## save a checkpoint, stop and remove the containers; keeps runs, data and models
	@docker/compose.sh down

logs: ## follow the containers' logs
	@docker/compose.sh logs --follow --tail 100

shell: build ## open a shell in a container
	@docker/compose.sh run job bash

smoke-docker: ## run the tiny world in containers from start to end
	@docker/smoke.sh

test: ready ## run the tests
	@$(PYTHON) -m pytest

bench: ready ## run the benchmarks against plain baselines (ONLY=scoring for one; CHECK=1 compares with baseline.json)
	@if [ -n "$(filter-out 0 false no,$(CHECK))" ]; then SDPO_MAKE_VARIABLES= exec $(PYTHON) -m benchmarks.ratios --check; fi; \
	set -e; export SDPO_MAKE_VARIABLES=; for name in $(or $(ONLY),$(BENCHMARKS)); do echo "== $$name"; $(PYTHON) -m benchmarks.$$name; done

test-fast: ready ## run the fast tests, without complete jobs (under 90 seconds)
	@$(PYTHON) -m pytest -m 'not slow' --durations=0 --durations-min=5

test-containers: ready ## run the tests that need a Docker engine
	@$(PYTHON) -m pytest tests/test_containers.py tests/test_containers_run.py --numprocesses=0

lint: ready ## check style and formatting
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

types: ready ## check the types of sdpo and jobs
	@$(PYTHON) -m mypy

docs: ready ## build the documentation site into docs/_build (offline; warnings are errors)
	@$(PYTHON) -m docs.settings
	@$(PYTHON) -m sphinx -q -W --keep-going -b html docs docs/_build && echo 'open docs/_build/index.html'

check: lint types test ## everything that has to pass before a change is merged: lint, format, types, tests

clean: ## remove .venv and caches; keeps runs and data
	rm -rf docs/_build .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
	find jobs sdpo tests -name __pycache__ -type d -prune -exec rm -rf {} +
