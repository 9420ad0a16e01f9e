PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
FUZZ_SECONDS ?= 1800

BENCH_OPTIONS ?= --family

.PHONY: demo test test-slow fuzz lint fixtures peer bench clean

demo: $(VENV)/core  ## converts a small checkpoint and shows what came out
	rm -rf demo
	$(BIN)/bertconvert tf2pt fixtures/pretraining demo
	$(BIN)/bertconvert verify fixtures/pretraining demo --level weights
	ls -l demo

test: $(VENV)/test  ## the ordinary suite
	$(BIN)/python -m pytest

test-slow: $(VENV)/test $(VENV)-peer/ready  ## what takes minutes
	$(BIN)/python -m pytest -m slow -n 1

fuzz: $(VENV)/fuzz  ## damaged checkpoints until one is mistaken, for FUZZ_SECONDS
	$(BIN)/python fuzz/fuzz_checkpoint.py --seeds fuzz/corpus
	$(BIN)/python fuzz/fuzz_checkpoint.py fuzz/corpus -max_total_time=$(FUZZ_SECONDS)

lint: $(VENV)/test .typecheck/bertconvert
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.typecheck $(BIN)/mypy --strict -p bertconvert

fixtures: $(VENV)/test  ## makes fixtures/ anew, with TensorFlow
	$(BIN)/python fixtures/make_fixtures.py

$(VENV)/core: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'
	touch $(VENV)/core $@

$(VENV)/fuzz: $(VENV)/test
	$(BIN)/pip install --quiet -c constraints.txt -e '.[fuzz]'
	touch $@

peer: $(VENV)-peer/ready  ## transformers 4 and TensorFlow, for test-slow and the benchmarks

$(VENV)-peer/ready:
	$(PYTHON) -m venv $(VENV)-peer
	$(VENV)-peer/bin/pip install --quiet transformers==4.57.6 torch==2.13.0 tensorflow-cpu==2.21.0 tf-keras==2.21.0 keras-bert==0.89.0
	touch $@

bench: $(VENV)-bench/ready $(VENV)-peer/ready  ## beside transformers 4 and cp, into benchmarks/results.md
	$(VENV)-bench/bin/pip install --quiet --force-reinstall --no-deps .
	$(VENV)-bench/bin/python benchmarks/make_checkpoints.py bench large base-adam --family
	$(VENV)-bench/bin/python benchmarks/convert.py bench \
	  --peer-python $(VENV)-peer/bin/python --json bench/figures.json $(BENCH_OPTIONS)
	$(VENV)-bench/bin/python benchmarks/report.py bench/figures.json

# Installed as users do: what -e installs is slower to start.
$(VENV)-bench/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/pip install --quiet -c constraints.txt . matplotlib
	touch $@

# mypy needs the package under its name, whatever the checkout is called.
.typecheck/bertconvert:
	mkdir -p .typecheck
	ln -sfn .. $@

clean:
	rm -rf $(VENV) $(VENV)-peer $(VENV)-bench bench .typecheck demo build dist *.egg-info
