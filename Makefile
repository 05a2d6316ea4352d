# The front door. `make help` lists the verbs; each one installs what it needs first, once.
#
# Variables: PYTHON (interpreter to build the environments with), TORCH_INDEX_URL (see scripts/install.sh),
# DATA (where CIFAR and the super-resolution sets are), SCALE (of the experiment), WORKERS (processes that run the
# tests), ARGS (more options for the verb's command).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two installations into one environment would trip over each other

VENV ?= .venv
VENV_SERVE ?= .venv-serve
DATA ?= ../shared/data
SCALE ?= full
# Tests mostly wait for the processes that they start, so two run at a time; 0: in one process, for --pdb.
WORKERS ?= 3
# A file's tests share what they start. Files go to workers in the order of collection, the longest first.
SCHEDULE = --dist loadfile --no-loadscope-reorder
# Workers share the cores; engines that each take all of them spin while they wait for one another.
ONE_THREAD = OMP_NUM_THREADS=1
# Where CIFAR is not at hand, images of its size are made up.
CIFAR_IMAGES = $(addprefix --images ,$(wildcard $(DATA)/cifar10/test.parquet))
EXPERIMENT ?= runs/experiment-$(SCALE)
ARGS ?=
export CLIPSR_SERVE_VENV := $(abspath $(VENV_SERVE))

# An environment is rebuilt when what it is made from changes; editable installs follow the code by themselves.
SERVE := $(VENV_SERVE)/.installed-serve
UI := $(VENV_SERVE)/.installed-ui
EXPORT := $(VENV)/.installed-export
DEV := $(VENV)/.installed-dev
# onnxruntime with CUDA in its place; only where there is a GPU.
SERVE_GPU := $(VENV_SERVE)/.installed-gpu
DEV_GPU := $(VENV)/.installed-gpu
INSTALLER := scripts/install.sh constraints.txt

MANIFEST := model_repository/manifest.json
# What is exported without ARGS: checkpoints/, and an int8 image encoder calibrated on the sample photos.
BUNDLED := --int8 samples --robust-upscaler checkpoints/liif-robust/liif.safetensors
# The model of many words, exported beside the bundled one.
WORDS := runs/clipsr-base
EXPORTED_FROM := $(shell find checkpoints export/src samples -type f -not -name '*.pyc' 2> /dev/null)
GENERATED := $(WORDS) $(MANIFEST) model_repository/upscale_* model_repository/robust_encoder model_repository/*_robust \
	model_repository/denoise model_repository/restore \
	model_repository/*/1/model.onnx model_repository/*/1/model.onnx.data \
	model_repository/*/1/model.int8.onnx model_repository/*/1/*.plan model_repository/tensorrt.json \
	model_repository/text_encoder/tokenizer.json model_repository/similarity/text_banks

.PHONY: help
help: ## Show the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(SERVE) $(MANIFEST) ## Install, export, serve, and classify the sample photos
	scripts/with-service.sh $(VENV_SERVE)/bin scripts/demo.sh $(VENV_SERVE)/bin

.PHONY: demo-words
demo-words: $(SERVE) $(WORDS)/manifest.json ## Classify the sample photos by the model of many words, in two languages
	CLIPSR_REPOSITORY=$(WORDS) scripts/with-service.sh $(VENV_SERVE)/bin scripts/demo-words.sh $(VENV_SERVE)/bin

.PHONY: serve
serve: $(SERVE) $(MANIFEST) ## Serve the exported model until Ctrl-C (ARGS='--help' shows the options)
	$(VENV_SERVE)/bin/clipsr-serve up $(ARGS)

.PHONY: ui
ui: $(UI) ## Show the web pages of a running service (ARGS='--url HOST:PORT')
	$(VENV_SERVE)/bin/clipsr-client ui $(ARGS)

.PHONY: export
export: $(EXPORT) ## Write the model repository's artifacts from checkpoints/
	$(VENV)/bin/clipsr-export $(or $(ARGS),$(BUNDLED))

.PHONY: train
train: $(EXPORT) ## Train: make train ARGS='liif …' or ARGS='clip …'
	$(VENV)/bin/clipsr-train $(if $(ARGS),$(ARGS),--help)

.PHONY: evaluate
evaluate: $(DEV) $(SERVE) $(MANIFEST) ## Measure top-1 on CIFAR through the service, beside PyTorch (needs DATA)
	scripts/with-service.sh $(VENV_SERVE)/bin bash -c \
		'$(VENV)/bin/python -m benchmarks.accuracy --url "$$CLIPSR_URL" --data $(DATA) $(ARGS)'

.PHONY: experiment
experiment: $(EXPORT) ## Compare CLIP with and without LIIF: SCALE=full (an hour) or quick (needs DATA)
	$(VENV)/bin/clipsr-eval experiment --scale $(SCALE) --data $(DATA)/cifar10/train.parquet \
		--test $(DATA)/cifar10/test.parquet --output $(EXPERIMENT) $(ARGS)

.PHONY: small-pictures
small-pictures: $(EXPORT) ## Report on the experiment on small pictures, from finished checkpoints (ARGS='--help')
	$(VENV)/bin/python -m benchmarks.accuracy.small_pictures $(ARGS)

.PHONY: upscaler-sizes
upscaler-sizes: $(DEV) ## Train upscalers of several sizes for one encoder: accuracy against time (ARGS='--help')
	$(VENV)/bin/python -m benchmarks.accuracy.upscaler_sizes $(ARGS)

.PHONY: bench-liif
bench-liif: $(DEV) ## Time LIIF, its exact rewrite and the shipped upscaler beside a CLIP image tower (ARGS='--compare FILE': two upscalers)
	$(VENV)/bin/python -m benchmarks.liif $(ARGS)

.PHONY: bench-capacity
bench-capacity: $(SERVE) ## Measure the images a second of a running service (ARGS='--url HOST:PORT --p99-ms 200')
	$(VENV_SERVE)/bin/python -m benchmarks.load.capacity $(ARGS)

.PHONY: reliability
reliability: $(DEV) $(SERVE) ## Measure one promise of docs/reliability.md (ARGS='overload --state-dir DIR')
	PATH="$(abspath $(VENV_SERVE))/bin:$$PATH" $(VENV)/bin/python -m benchmarks.reliability $(if $(ARGS),$(ARGS),--help)

.PHONY: bench
bench: $(DEV) $(SERVE) $(MANIFEST) ## Measure the service beside other CLIP servers (an hour; ARGS=--quick: does it run?)
	$(VENV)/bin/python -m benchmarks.serving --serve-bin $(VENV_SERVE)/bin $(CIFAR_IMAGES) $(ARGS)

.PHONY: bench-gpu
bench-gpu: $(SERVE_GPU) $(DEV_GPU) $(MANIFEST) ## The same on an NVIDIA GPU
	$(VENV)/bin/python -m benchmarks.serving --device cuda --serve-bin $(VENV_SERVE)/bin $(CIFAR_IMAGES) $(ARGS)

.PHONY: screenshots
screenshots: $(DEV) $(SERVE) $(MANIFEST) ## Make the pictures of docs/ui.md anew, in Chromium
	scripts/with-service.sh $(VENV_SERVE)/bin $(VENV)/bin/python -m tests.screenshots

.PHONY: bench-library
bench-library: $(DEV) $(SERVE) $(MANIFEST) ## Measure image libraries: precision, adding, 200,000 vectors (needs DATA)
	scripts/with-service.sh $(VENV_SERVE)/bin bash -c '$(VENV)/bin/python -m benchmarks.library --data $(DATA) \
		--url "$$CLIPSR_URL" --libraries "$$CLIPSR_LIBRARIES" $(ARGS)'

.PHONY: test
test: $(DEV) $(SERVE) $(MANIFEST) ## Run the tests, with a real Triton (13 minutes on 2 cores)
	$(ONE_THREAD) $(VENV)/bin/pytest -m 'not slow' -n $(WORKERS) $(SCHEDULE) $(ARGS)

.PHONY: test-slow
test-slow: $(DEV) $(SERVE) $(MANIFEST) ## Run the tests that take minutes each
	$(VENV)/bin/pytest -m slow $(ARGS)

.PHONY: test-stalls
test-stalls: $(DEV) $(SERVE) $(MANIFEST) ## Run the tests on a machine that stalls (a third longer; what fails counts on a moment)
	$(ONE_THREAD) $(VENV)/bin/python -m tests.stalls -m 'not slow' -n $(WORKERS) $(SCHEDULE) $(ARGS)

.PHONY: docs
docs: $(DEV) ## Build the documentation site into site/
	PATH="$(abspath $(VENV))/bin:$$PATH" scripts/docs.sh site

.PHONY: lint
lint: $(DEV) ## Check format, style, types, imports between rooms, the wire contract, and the pages' links
	PATH="$(abspath $(VENV))/bin:$$PATH" scripts/lint.sh

.PHONY: audit
audit: $(DEV) ## Ask whether pinned packages have known vulnerabilities
	$(VENV)/bin/python scripts/audit.py $(ARGS)

.PHONY: proto
proto: $(DEV) ## Generate the client's stubs from proto/
	PATH="$(abspath $(VENV))/bin:$$PATH" proto/generate.sh

.PHONY: clean
clean: ## Remove the environments and everything generated
	rm -rf $(VENV) $(VENV_SERVE) .venv-proto $(GENERATED) site .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SERVE): $(INSTALLER) $(wildcard client/pyproject.toml gateway/pyproject.toml serving/pyproject.toml)
	scripts/install.sh serve $(VENV_SERVE)
	@touch $@

# The serving environment with the web pages is still one.
$(UI): $(INSTALLER) $(wildcard client/pyproject.toml gateway/pyproject.toml serving/pyproject.toml)
	scripts/install.sh ui $(VENV_SERVE)
	@touch $(SERVE) $@

$(EXPORT): $(INSTALLER) $(wildcard serving/pyproject.toml training/pyproject.toml export/pyproject.toml)
	scripts/install.sh export $(VENV)
	@touch $@

# The development environment holds what exporting needs, so it satisfies both stamps.
$(DEV): $(INSTALLER) requirements-dev.txt $(wildcard */pyproject.toml)
	scripts/install.sh dev $(VENV)
	@touch $(EXPORT) $@

$(SERVE_GPU): $(SERVE)
	scripts/install.sh gpu $(VENV_SERVE)
	@touch $@

$(DEV_GPU): $(DEV)
	scripts/install.sh gpu $(VENV)
	@touch $@

$(MANIFEST): $(EXPORTED_FROM) | $(EXPORT)
	$(VENV)/bin/clipsr-export $(BUNDLED)
	@touch $@

$(WORDS)/manifest.json: $(EXPORTED_FROM) | $(EXPORT)
	$(VENV)/bin/clipsr-export --clip checkpoints/clipsr-base --output $(WORDS) \
		--robust-upscaler checkpoints/liif-robust/liif.safetensors
	@touch $@
