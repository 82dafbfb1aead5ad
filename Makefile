PYTHON ?= python3
TASK ?= ads
BIN := .venv/bin
export OMP_WAIT_POLICY := passive

EVIDENCE ?= biased census negative-transfer amortisation credit ads citeulike home-depot fraud

.PHONY: setup demo test lint bench evidence clean evidence-data $(EVIDENCE:%=evidence-%)

setup:
	@$(PYTHON) deploy/setup/install.py

demo: setup
	@$(BIN)/recstill demo --task $(TASK)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: lint
	@OMP_NUM_THREADS=1 $(BIN)/pytest

bench: setup
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench.py

evidence: $(EVIDENCE:%=evidence-%)
	@$(BIN)/python tests/evidence/readme.py

evidence-data: setup
	@for name in complete-journey census-income synthetic-clicks taiwan-credit minilm-l6; do $(BIN)/recstill data fetch $$name >/dev/null || exit 1; done

$(EVIDENCE:%=evidence-%): evidence-%: evidence-data
	@OMP_NUM_THREADS=1 $(BIN)/recstill sweep tests/evidence/$*.yaml --out evidence

clean:
	rm -rf .venv .recstill
