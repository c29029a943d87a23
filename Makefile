# On a fresh machine: `make demo`, `make test`, `make docs`. Each sets up .venv itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# Two threads at most: the machines this is made for have two cores.
export OMP_NUM_THREADS ?= 2

.PHONY: demo docs docs-tables test lint setup clean

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

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
