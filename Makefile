# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs in .venv, at the versions of constraints.txt, and touches nothing outside the
# checkout. With a C++ compiler the extension is built; without one the package is pure Python.
PYTHON ?= python3
ifeq ($(origin CXX), default)
CXX := c++
endif
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SOURCES := CMakeLists.txt setup.py pyproject.toml $(wildcard build_system/*.py csrc/*/*)

.NOTPARALLEL:
.PHONY: help sample bench bench-kernels pages test lint typecheck ctest pytest seeds portability matrix rehearse prepare-gpu format clean distclean

help:
	@echo "make sample     generate 64 images of digits-ve into samples/"
	@echo "make bench      time sampling against plain and tuned PyTorch, into benchmarks/results/; under ten minutes"
	@echo "make bench-kernels  time single kernels, launches and the loop, against the last commit that was timed here"
	@echo "make pages      draw the committed results as pages, into build/pages/"
	@echo "make test       lint, type-check, C++ tests, Python tests"
	@echo "make lint | typecheck | ctest | pytest   one part of it"
	@echo "make seeds      run the statistical tests with twenty run seeds"
	@echo "make portability  run the numerical tests with the instructions of older processors"
	@echo "make matrix     build and test with the oldest, the GPU machine's and the newest Python and torch; some GB"
	@echo "make rehearse   run the visit to a GPU without one, with the GPU machine's packages; some GB at first"
	@echo "make prepare-gpu  compile ahead what the visit takes along, into build/gpu/prepared"
	@echo "make format     rewrite the sources as lint wants them"
	@echo "make clean      remove what was built; distclean: and .venv"

sample: .venv/installed
	$(BIN)/scoresde-fast sample digits-ve --solver pc --steps 300 --seeds 0-63 --out samples

bench: .venv/benched
	$(BIN)/scoresde-fast bench --out benchmarks/results/sampling-cpu.json --html build/pages/sampling-cpu.html

pages: .venv/benched
	$(BIN)/python -m benchmarks.pages

# Kept by commit in build/benchmarks; pytest-benchmark compares with the latest of the others.
bench-kernels: .venv/tested
	@mkdir -p build/benchmarks
	$(BIN)/pytest benchmarks --benchmark-only --benchmark-autosave --benchmark-storage=file://build/benchmarks \
	  --benchmark-columns=median,iqr,rounds --benchmark-sort=fullname --benchmark-group-by=func \
	  $$(test -z "$$(find build/benchmarks -name '*.json')" || echo --benchmark-compare) $(BENCHMARKS)

test: lint typecheck ctest pytest

lint: .venv/tested
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache --no-logo
	find csrc -type f | xargs $(BIN)/clang-format --dry-run -Werror

typecheck: .venv/tested
	$(BIN)/mypy

# Ninja comes from .venv, and CMake looks for it on PATH.
ctest: export PATH := $(CURDIR)/$(BIN):$(PATH)
ctest: .venv/tested
	@mkdir -p build
	@if ! command -v $(CXX) >/dev/null; then echo "ctest: skipped, there is no C++ compiler ($(CXX))"; else \
	cmake -S . -B build/ctest -GNinja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python >build/ctest.log 2>&1 \
	  || { cat build/ctest.log; exit 1; }; \
	cmake --build build/ctest && ctest --test-dir build/ctest --output-on-failure; fi

# One thread in each of two processes: faster than two threads in one, on networks this small.
pytest: export OMP_NUM_THREADS := 1
pytest: .venv/tested ctest
	$(BIN)/pytest --numprocesses 2

seeds: export OMP_NUM_THREADS := 1
seeds: .venv/tested
	for seed in $$(seq 0 19); do \
	  $(BIN)/pytest --quiet --numprocesses 2 -m 'statistical and not slow' --run-seed $$seed || exit 1; done

portability: .venv/tested
	$(BIN)/python -m benchmarks.portability.processors

matrix:
	$(PYTHON) -m benchmarks.portability.matrix

rehearse:
	$(PYTHON) -m benchmarks.visit.rehearse

prepare-gpu:
	$(PYTHON) -m benchmarks.visit.rehearse --prepare

format: .venv/tested
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	find csrc -type f | xargs $(BIN)/clang-format -i

.venv/python: constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 10) and "scoresde_fast needs Python >= 3.10 and \
	$(PYTHON) is %d.%d: give another with make PYTHON=python3.12" % v[:2] or 0)'
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0 numpy setuptools cmake ninja
	@touch $@

.venv/installed: .venv/python $(SOURCES)
	$(PIP) --no-build-isolation --editable .
	@touch $@

.venv/benched: .venv/installed
	$(PIP) --no-build-isolation --editable '.[bench]'
	@touch $@

.venv/tested: .venv/installed
	$(PIP) --no-build-isolation --editable '.[train,test]'
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(PIP) --no-build-isolation --editable '.[gpu]' triton==3.6.0 \
	  || echo "tests: there is no Triton for this machine; its kernels are not tested"
	@touch $@

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache scoresde_fast/_C*.so scoresde_fast/why_no_extension.txt .venv/installed .venv/benched .venv/tested
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv
