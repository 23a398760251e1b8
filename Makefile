# Two commands do it all on a fresh machine: `make paper` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PROFILE ?= cpu
PYTHON ?= python3
HUB := $(filter paper single-gpu,$(PROFILE))
# Models of the hub share the GPUs, so one stage at a time; those of the mini world have a core each.
JOBS ?= $(if $(HUB),1,$(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$(( n > 5 ? 5 : n ))))
TRAINED := L1-SLM RLVR-SLM Brier-SLM
SYSTEMS := LLM $(TRAINED) SLM
# Ablation runs: those of `make paper`, then the longest first, so that the end is not spent waiting for one.
IN_PAPER := anchor l2 brier
SEEDS := $(foreach s,$(TRAINED),$(s)-seed-1 $(s)-seed-2)
BASES := $(if $(HUB),$(if $(filter paper,$(PROFILE)),Llama-3.1-8B-Instruct Qwen2.5-1.5B-Instruct),\
	llama honest-0 honest-0.1 honest-0.33 small tiny)
ABLATIONS := $(IN_PAPER) $(SEEDS) $(BASES) none kl log mix-0.25 mix-0.5 mix-0.75 \
	rollouts-4 rollouts-16 rollouts-32 no-std normalised-apart weight-0.3 weight-3 beta-0.0 beta-0.01 beta-0.1

VENV := .venv
PY := $(VENV)/bin/python
ROOT := $(if $(COREA_ROOT),$(abspath $(COREA_ROOT))/)
ifdef COREA_ROOT
export COREA_ROOT := $(abspath $(COREA_ROOT))
endif
DATA := $(ROOT)data/$(PROFILE)
EXECUTED := $(DATA)/notebooks
NOTEBOOK := $(PY) -m corea.paper.execute
# What a stage is made from, beside its notebook: it is checked again if one of these is newer.
LIBRARY := corea/grpo.py corea/rewards.py $(wildcard corea/questions/*.py) $(wildcard corea/paper/profiles.*) corea/paper/variants.py
LIBRARY += $(if $(HUB),corea/support/hardware.py)
ASKING := corea/parser.py corea/grader.py corea/_algebra.py corea/evaluation.py $(wildcard corea/engines/*.py) corea/analysis/sources.py
ASKING += corea/paper/runs.py corea/paper/shards.py
BASE := data/base/slm/model.safetensors data/base/llm/model.safetensors

# One thread a process: the same bytes however many processes run side by side.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE ?= $(if $(HUB),0,1)
export PYTHONHASHSEED := 0
export PYTHONWARNINGS := ignore

.PHONY: help plan shard test-serving site site-check course course-check leaderboard paper ablations records figures base test tests dist artifact bench setup lock lint clean reference check-profile check-gpus machine

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

paper: setup check-profile machine  ## train, generate, and draw every table and figure (PROFILE=cpu, smoke, paper or single-gpu)
	@$(MAKE) --no-print-directory -j$(JOBS) --output-sync=none records
	@$(MAKE) --no-print-directory figures
	@echo "done: tables and figures are in $(ROOT)figures/$(PROFILE)/"

records: $(SYSTEMS:%=$(EXECUTED)/05_generate-%.ipynb) $(IN_PAPER:%=$(EXECUTED)/09_ablate-%.ipynb)

ablations: setup check-profile machine  ## run every ablation and seed (about 2 h 15 min on two cores), then draw the figures
	@$(MAKE) --no-print-directory -j$(JOBS) --output-sync=none all-ablations
	@$(MAKE) --no-print-directory figures

all-ablations: $(ABLATIONS:%=$(EXECUTED)/09_ablate-%.ipynb)

figures: setup check-profile  ## draw tables and figures from the records that lie there; no model is run
	@$(MAKE) --no-print-directory -j2 --output-sync=none $(DRAWN:%=draw-%)

SYSTEM ?= L1-SLM
SHARD ?= 1/1
shard: setup check-profile machine  ## generate one part of a system's records on this machine (SYSTEM=L1-SLM SHARD=2/8)
	@$(NOTEBOOK) notebooks/05_generate.ipynb $(EXECUTED)/shards/05_generate-$(SYSTEM)-$(subst /,-of-,$(SHARD)).ipynb \
		-p profile $(PROFILE) -p system $(SYSTEM) -p shard $(SHARD)

draw-%:
	@$(NOTEBOOK) notebooks/$*.ipynb $(EXECUTED)/$*.ipynb -p profile $(PROFILE)

# The longest first.
DRAWN := 08_confidence_sources 10_ablations 06_calibration 11_claims 07_cascade

# An executed notebook appears only when its last cell has run, so it is what tells that a stage is done.
# $(call STAGE,verb,notebook,parameter,run,needs)
define STAGE
$(EXECUTED)/$(2)-$(4).ipynb: notebooks/$(2).ipynb $(LIBRARY) $(5)
	@echo "$(1) $(4): $$(if $$(wildcard $$@),older than what it is made from: checked again,no whole $$@)"
	@$(NOTEBOOK) $$< $$@ -p profile $(PROFILE) -p $(3) $(4)
endef
ASKS = $(ASKING) $(if $(filter $(1),$(TRAINED)),$(EXECUTED)/04_train-$(1).ipynb,$(BASE))
$(foreach r,$(TRAINED),$(eval $(call STAGE,train,04_train,system,$(r),$(BASE))))
$(foreach r,$(SYSTEMS),$(eval $(call STAGE,generate,05_generate,system,$(r),$(call ASKS,$(r)))))
$(foreach r,$(ABLATIONS),$(eval $(call STAGE,ablate,09_ablate,variant,$(r),$(ASKING) corea/mini/pretrain.py $(BASE))))

base: setup  ## retrain the base models of the mini world (about 40 minutes on two cores)
	$(NOTEBOOK) notebooks/02_base_models.ipynb data/work/02_base_models-slm.ipynb -p model slm -p retrain true & slm=$$!; \
	$(NOTEBOOK) notebooks/02_base_models.ipynb data/work/02_base_models-llm.ipynb -p model llm -p retrain true && wait $$slm

test: setup  ## run ruff, mypy, pytest and nbval
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest tests -n $(TEST_JOBS) --dist loadfile
	COREA_STATIC=1 COREA_ROOT="$(CURDIR)/build/nbval" $(PY) -m pytest -n $(TEST_JOBS) --dist loadfile --nbval-lax --nbval-cell-timeout=300 -p no:cacheprovider $(CHECKED)
	$(PY) -m tests.golden check build/nbval/figures/cpu

tests: test

TEST_JOBS ?= 2
CHECKED := notebooks/01_meet_the_cascade.ipynb notebooks/03_rewards.ipynb $(DRAWN:%=notebooks/%.ipynb) notebooks/12_your_own_data.ipynb

plan: $(VENV)/complete check-profile  ## what a run would take in time, memory, disk and money (PROFILE=paper); no model is loaded
	@$(PY) -m corea.paper.plan --profile $(PROFILE)

test-serving: setup .venv-serving/complete  ## run the cascade over real servers (vLLM on the CPU, transformers serve); 3.4 GB more
	$(PY) -m pytest tests/serving.py -s -p no:cacheprovider

.venv-serving/complete: tests/serving-requirements.txt
	$(PYTHON) -m venv .venv-serving
	.venv-serving/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	.venv-serving/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec  # they do not load beside this torch
	@touch $@

site: setup .venv-site/complete  ## build the site into build/site from executed notebooks and docstrings; nothing is executed
	$(PY) notebooks/site/prepare.py build/site-source
	$(PY) notebooks/site/pack_explorer.py build/site-source/_static/explorer/records.js
	rm -rf build/site
	PYTHONPATH="$(CURDIR)" .venv-site/bin/python -m sphinx -W --keep-going -q -j auto -d build/site-doctrees build/site-source build/site
	@echo "done: open build/site/index.html"

site-check: site .venv-site/checks  ## look at the built site in a browser: links, numbers, axe-core (needs chromium and npm)
	PYTHONPATH="$(CURDIR)" .venv-site/bin/python -m pytest tests/site_check.py -p no:cacheprovider

# The course's machinery lies beside its assignments, as it works in a checkout alone.
GRADING := PYTHONPATH="$(CURDIR)/notebooks/course" $(PY) -m grading
COURSE ?= build/course

course: setup  ## build the student version of the course's assignments into build/course/release
	@$(GRADING) build --folder $(COURSE)

course-check: setup  ## prove the course's grading: solutions, empty releases, wrong solutions, and the teacher's guide
	@$(GRADING) check --folder build/course-check
	$(PY) -m pytest tests/course_guide.py -p no:cacheprovider

leaderboard: setup  ## list the students of the course's open assignment by cost at equal accuracy
	@$(GRADING) leaderboard --folder $(COURSE)

# Docstrings come from the real modules, so the site's environment sees the library's packages behind its own.
.venv-site/complete: notebooks/site/requirements.txt $(VENV)/complete
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv-site/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/library.pth"
	@touch $@

.venv-site/checks: tests/site-requirements.txt .venv-site/complete
	.venv-site/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	npm install --silent --no-save --no-fund --no-audit --prefix .venv-site axe-core@$(AXE)
	@touch $@

AXE := 4.14.1

dist: setup  ## build wheel and sdist into dist/, look into them, and import the wheel in an empty environment
	$(PYTHON) -m venv build/packaging
	build/packaging/bin/python -m pip install --quiet --disable-pip-version-check build
	rm -rf dist build/lib && build/packaging/bin/python -m build --quiet .
	$(PY) -m tests.wheel dist

artifact: setup  ## (for maintainers) fill in the measured figures of figures/ARTIFACT.md
	$(PY) -m tests.artifact

bench: setup  ## measure speeds and print ratios
	$(PY) -m tests.bench

reference: setup  ## (for maintainers) make the finished cpu run the tracked reference run, and show it in the notebooks
	test -d $(MADE)/runs/L1-SLM/model
	rm -rf $(TRACKED:%=$(REFERENCE)/%)
	tar -C $(MADE) -c --exclude=model --exclude=checkpoints $(TRACKED) | tar -C $(REFERENCE) -x
	cp -r $(MADE)/runs/L1-SLM/model $(REFERENCE)/runs/L1-SLM/
	for n in $(ALONE); do $(NOTEBOOK) notebooks/$$n.ipynb $(EXECUTED)/$$n.ipynb || exit 1; done
	for n in $(ALONE) $(SHOWN); do $(NOTEBOOK) --publish $(EXECUTED)/$$n.ipynb notebooks/$${n%%-*}.ipynb || exit 1; done

MADE := $(ROOT)data/cpu
REFERENCE := data/reference/cpu
TRACKED := records probes ablations runs
ALONE := 01_meet_the_cascade 02_base_models 03_rewards 12_your_own_data
SHOWN := 04_train-L1-SLM 05_generate-SLM 09_ablate-anchor $(DRAWN)

setup: $(VENV)/complete  ## make .venv from the pinned lock file; does nothing the second time

$(VENV)/complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "corea needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# GPUs are counted before gigabytes are installed for them.
machine: $(if $(HUB),check-gpus $(VENV)/gpu)

check-gpus: $(VENV)/complete
	@$(PY) -m corea.paper.profiles $(PROFILE)

$(VENV)/gpu: $(VENV)/complete
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[gpu]'
	@touch $@

check-profile:
	@$(PY) -c 'import sys; from corea.paper.profiles import load_profile; load_profile(sys.argv[1])' $(PROFILE) 2> >(tail -n 1 >&2)

lock: setup  ## (for maintainers) write requirements.lock from .venv
	{ head -n 1 requirements.lock; $(PY) -m pip freeze --exclude corea | sed 's/+cpu//'; } > .lock.part && mv .lock.part requirements.lock

clean:  ## remove what PROFILE's `make paper` made under data/ (tracked figures stay)
	@case "$(PROFILE)" in cpu|smoke|paper|single-gpu) ;; *) echo "unknown profile '$(PROFILE)'; use one of cpu, paper, single-gpu, smoke" >&2; exit 1;; esac
	rm -rf "$(DATA)" "$(ROOT)data/work"
