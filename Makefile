PYTHON ?= python3
BIN := .venv/bin
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 4 --dist worksteal

.PHONY: demo test test-fast lint companion docs notebook check-notebook speed-check speedrun-check bench clean

# The set-up: a virtual environment with pinned dependencies.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# On the bundled sample, in three minutes on two cores: the bundled encoder is pre-trained further, then fine-tuned.
demo: .venv/ready
	$(BIN)/bertwright run recipes/demo.yaml
	@echo 'The report: runs/demo/report.html'
	@echo 'Next: $(BIN)/bertwright predict "A film to remember." --explain'
	@echo '      $(BIN)/bertwright serve'
	@echo '      your own text and labels: docs/guide/adapt.md, docs/guide/your-text.md'

# All tests, on each core; a core that has nothing left takes some of the others: some twelve minutes on two cores.
test: .venv/ready
	$(PYTEST)

# The tests that take less than 0.3 seconds each: under a minute on two cores.
test-fast: .venv/ready
	$(PYTEST) -m 'not (slow or gpu or network or browser)'

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# BERT.pdf, the paper section by section beside our code and our figures.
companion: .venv/ready
	$(BIN)/python docs/companion/build.py

# The site, from the guides and the docstrings: build/docs/index.html.
docs: .venv/ready
	$(BIN)/sphinx-build -W --keep-going -q docs build/docs

# The lesson: BERT.ipynb from docs/lesson/lesson.py, executed from top to bottom; its last cell says how long it took.
notebook: .venv/ready
	$(BIN)/python docs/lesson/build.py

# The same, without changing BERT.ipynb: do all cells run, and do their assertions hold?
check-notebook: .venv/ready
	$(BIN)/python docs/lesson/build.py --check

# Has the working tree become slower than an earlier commit? make speed-check BEFORE=v1; it warns, and does not fail.
speed-check: .venv/ready
	$(BIN)/python benchmarks/speed_change.py --before $(or $(BEFORE),HEAD~1)

# Does an entry of the speedrun still work? On the bundled sample, in seconds: make speedrun-check ENTRY=paper
speedrun-check: .venv/ready
	$(BIN)/python benchmarks/speedrun.py $(or $(ENTRY),imdb-mini) --small true

# Figures as those of results/speed, in files that name the kind of processor; let nothing else run:
# make bench BOOKS='/path/to/books-*.jsonl.xz' IMDB=/path/to/imdb
bench: .venv/ready
	$(if $(and $(BOOKS),$(IMDB)),,$(error say where the texts are: make bench BOOKS='…/books-*.jsonl.xz' IMDB=…/imdb))
	$(BIN)/python benchmarks/pretrain_speed.py --sizes tiny,mini,small,base --text '$(BOOKS)'
	$(BIN)/python benchmarks/finetune_speed.py --texts '$(IMDB)'
	$(BIN)/python benchmarks/prepare_speed.py --texts '$(IMDB)'
	$(BIN)/python benchmarks/data_speed.py --books '$(BOOKS)'

clean:
	rm -rf .venv
