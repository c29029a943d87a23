# On a fresh machine: `make demo`, `make test`, `make docs`. Each sets up .venv itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# Two threads at most: the machines this is made for have two cores.
export OMP_NUM_THREADS ?= 2

.PHONY: demo demo-page docs docs-tables test test-page lint setup clean

setup: $(STAMP)

# torch first and capped: pip's newest on a CPU machine is gigabytes of CUDA (see pyproject.toml). TORCH= picks another build.
TORCH ?= torch==2.13.0
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# The whole recipe on synthetic scenes: data, origin, specialists, O-P, student, table, pictures. The paper's learning rate is for 200,000
# iterations; these few need more.
demo: setup
	$(BIN)/python -m mtkd_cd make-synthetic demo/data --num-train 240 --num-test 30 --size 64 --seed 0 --overwrite
	$(BIN)/python -m mtkd_cd check-data demo/data --figure demo/car.png
	$(BIN)/python -m mtkd_cd recipe fc_ef --data-root demo/data --work-dir demo/work_dirs --iters 300 --image-size 64 \
	  --batch-size 12 --num-workers 0 --val-interval 75 --show-dir demo/pictures --cfg-options optim_wrapper.optimizer.lr=3e-3
	@echo
	@echo 'Table:    demo/work_dirs/report/fc_ef/report.md'
	@echo 'Pictures: demo/pictures'

# Two processes on two cores, one thread each.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

# The page of `mtkd-cd demo` in an environment of its own, since Gradio holds Pillow below 13: its packages come before those
# of .venv, which it sees too.
PAGE := $(VENV)/page

$(PAGE)/installed: $(STAMP)
	test -x $(PAGE)/bin/python || $(BIN)/python -m venv $(PAGE)
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > "$$($(PAGE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/behind.pth"
	$(PAGE)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]' 'playwright>=1.49'
	touch $@

# After `make demo`: http://127.0.0.1:7860
demo-page: $(PAGE)/installed
	$(PAGE)/bin/python -m mtkd_cd demo

# In Debian's Chromium; no browser is downloaded.
test-page: $(PAGE)/installed
	OMP_NUM_THREADS=1 $(PAGE)/bin/python -m pytest tests/demo/test_page.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	test ! -x $(BIN)/hadolint || $(BIN)/hadolint Dockerfile

clean:
	rm -rf $(VENV) demo site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# The site, in site/: open site/index.html (its search needs a server: python -m http.server -d site).
# Warnings are errors; nothing is fetched.
docs: $(VENV)/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

$(VENV)/docs-installed: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

# The tables of docs/*.md that show the paper's figures, from mtkd_cd/paper/published.json.
docs-tables: setup
	$(BIN)/python -m mtkd_cd.paper.docs
