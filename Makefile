# The two commands of the README are `make demo` and `make test`; everything lives in .venv.
PYTHON ?= python3
# Processes that share the tests; each takes about 3 GB.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
NATIVE := backends/tinyllm_native
BUILT := $(NATIVE)/library/built.json
PROMPT ?= Why is the sky blue? Answer in two sentences.

.PHONY: demo test clients install install-demo browser bench lint docs clean

demo: install-demo  ## install, fetch the model, answer a prompt
	$(BIN)/tinyllm pull smollm2
	$(BIN)/tinyllm generate "$(PROMPT)" --max-tokens 100

test: install  ## the whole test suite
	$(BIN)/tinyllm pull smollm2
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

clients: install  ## other people's clients, installed from their registries, against the server
	$(BIN)/tinyllm pull smollm2
	$(BIN)/python -m tests.clients.run

browser:  ## Chromium, which the tests of the chat page need
	@if command -v chromium >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then as=; else as="sudo -n"; fi; \
	if command -v apt-get >/dev/null && $$as true 2>/dev/null; \
	then $$as apt-get update -qq && $$as \
		env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
	else echo "browser: put a program named chromium on the PATH (Debian: apt-get install chromium);" \
		"without it the page's tests are skipped"; fi

bench: install  ## speed of ops, and of the model against its peers
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only
	$(BIN)/tinyllm bench model --against transformers,mlx-lm

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: install  ## the pages that are made from specs, schemes and cases, and the drawing of a model
	$(BIN)/python -m tinyllm.catalogue.docs docs/ops.md
	$(BIN)/python -m tinyllm.catalogue.schemes.docs docs/schemes.md
	$(BIN)/python -m tinyllm.conformance.refused docs/refused.md
	$(BIN)/python -m tinyllm.models.families.docs docs/families.md
	$(BIN)/tinyllm graph smollm2 -b numpy --svg docs/smollm2.svg

install: $(VENV)/.dev $(BUILT)  ## everything that developing needs
install-demo: $(VENV)/.demo $(BUILT)  ## what the demo needs: tinyllm alone, without torch and mlx

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.demo

# Installing compiles the native backend; a source that changes afterwards has it compiled again. Without a compiler its
# reason is printed, and all else goes on.
$(BUILT): $(wildcard $(NATIVE)/source/* $(NATIVE)/builder/*.py)
	-$(BIN)/tinyllm native build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) $(NATIVE)/library build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
