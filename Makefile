# SPDX-License-Identifier: Apache-2.0
# Each target installs what it needs into .venv, with the versions of constraints.txt, and changes nothing outside the
# checkout. The extension is built if there is a C++ compiler; otherwise the package is pure Python.
PYTHON ?= python3
ifeq ($(origin CXX), default)
CXX := c++
endif
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SOURCES := CMakeLists.txt setup.py pyproject.toml $(wildcard build_system/*.py csrc/*/*)

.NOTPARALLEL:
.PHONY: help sample bench bench-kernels pages test lint typecheck ctest pytest seeds sanitize portability matrix rehearse prepare-gpu format clean distclean

help:
	@echo "make sample     generate 64 images of digits-ve into samples/"
	@echo "make bench      compare sampling with plain and tuned PyTorch, into benchmarks/results/; under ten minutes"
	@echo "make bench-kernels  time kernels, launches and the loop, compared with the last commit timed on this machine"
	@echo "make pages      render the committed results as HTML pages, into build/pages/"
	@echo "make test       run lint, typecheck, ctest and pytest"
	@echo "make lint | typecheck | ctest | pytest   run one of them"
	@echo "make seeds      run the statistical tests with twenty run seeds"
	@echo "make sanitize   build with sanitizers; run ctest, the operators' tests and a fuzzer of them; nightly, before a release"
	@echo "make portability  run the numerical tests with the instruction sets of older processors"
	@echo "make matrix     build and test with the oldest, the GPU machine's and the newest Python and torch; several GB"
	@echo "make rehearse   run the GPU visit without a GPU, with the GPU machine's packages; several GB at first"
	@echo "make prepare-gpu  precompile kernels for a GPU visit, into build/gpu/prepared"
	@echo "make format     format the sources and fix lint errors"
	@echo "make clean      remove build outputs; make distclean also removes .venv"

sample: .venv/installed
	$(BIN)/scoresde-fast sample digits-ve --solver pc --steps 300 --seeds 0-63 --out samples

bench: .venv/benched
	$(BIN)/scoresde-fast bench --out benchmarks/results/sampling-cpu.json --html build/pages/sampling-cpu.html

pages: .venv/benched
	$(BIN)/python -m benchmarks.pages

# Results are saved by commit in build/benchmarks; pytest-benchmark compares them with the latest earlier ones.
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

# CMake looks for Ninja on PATH; it is in .venv.
ctest: export PATH := $(CURDIR)/$(BIN):$(PATH)
ctest: .venv/tested
	@mkdir -p build
	@if ! command -v $(CXX) >/dev/null; then echo "ctest: skipped, there is no C++ compiler ($(CXX))"; else \
	cmake -S . -B build/ctest -GNinja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python >build/ctest.log 2>&1 \
	  || { cat build/ctest.log; exit 1; }; \
	cmake --build build/ctest && ctest --test-dir build/ctest --output-on-failure; fi

# For small networks, two processes with one thread each are faster than one process with two threads.
pytest: export OMP_NUM_THREADS := 1
pytest: .venv/tested ctest
	$(BIN)/pytest --numprocesses 2

seeds: export OMP_NUM_THREADS := 1
seeds: .venv/tested
	for seed in $$(seq 0 19); do \
	  $(BIN)/pytest --quiet --numprocesses 2 -m 'statistical and not slow' --run-seed $$seed || exit 1; done

sanitize: .venv/tested
	$(BIN)/python -m benchmarks.portability.sanitizers

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
