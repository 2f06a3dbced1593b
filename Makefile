# `make demo` on a fresh machine: everything else follows. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PyPI's torch for Linux brings CUDA, several GB; https://download.pytorch.org/whl/cpu has the small CPU build.
TORCH_INDEX ?=
# Options of `make bench`, such as --quick.
OPTIONS ?=
# Folder of DICOM, PNG or JPEG files for `make demo`; empty: phantoms that we draw.
FOLDER ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# What tests and benches run against: command or file, and the Debian package that has it. What is missing is skipped, and said so.
TEST_TOOLS := dcmdump=dcmtk gdcmscu=libgdcm-tools dciodvfy=dicom3tools chromium=chromium openssl=openssl strace=strace mkfs.ext4=e2fsprogs
ORTHANC := /usr/share/orthanc/plugins/libOrthanc
BENCH_TOOLS := dcmdump=dcmtk Orthanc=orthanc $(ORTHANC)DicomWeb.so=orthanc-dicomweb \
	$(ORTHANC)PostgreSQLIndex.so=orthanc-postgresql

.PHONY: help install demo test bench fuzz lint tools bench-tools clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed ## the virtual environment .venv with the sangloc command

demo: install ## start everything, send studies by DICOM, watch the worklist fill
	$(BIN)/sangloc demo $(FOLDER)

test: $(VENV)/.installed-dev tools ## all tests; those of whole systems one at a time, as they need the machine
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/e2e
	$(BIN)/python -m pytest tests/e2e

bench: $(VENV)/.installed-dev bench-tools ## the figures of docs/performance.md, beside Orthanc in the same run
	$(BIN)/python -m bench $(OPTIONS)

lint: $(VENV)/.installed-dev ## format, style, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: $(VENV)/.installed-dev ## a minute of coverage-guided fuzzing for each reader of foreign bytes
	$(PIP) -q 'atheris>=3,<4'
	for target in tests/fuzz/fuzz_*.py; do $(BIN)/python $$target -max_total_time=60 -artifact_prefix=/tmp/ || exit 1; done

clean: ## remove what these targets made; data/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .schemathesis
	find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo \
	"sangloc needs Python 3.11 or newer as $(PYTHON). Debian, Ubuntu: apt-get install python3 python3-venv;" \
	"another interpreter: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
	"Python's venv is missing. Debian, Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[models]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[models,dev]'
	@touch $@

# Installs missing tools where we may (root, or sudo without a password), else says what to install.
define need
@missing=; for tool in $(1); do command -v $${tool%%=*} >/dev/null || [ -e $${tool%%=*} ] || missing="$$missing $${tool##*=}"; done; \
if [ -z "$$missing" ]; then exit 0; fi; \
if [ "$$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo="sudo -n"; else \
echo "Some tests will be skipped. For all of them:  sudo apt-get install$$missing" >&2; exit 0; fi; \
echo "installing$$missing"; export DEBIAN_FRONTEND=noninteractive; $$sudo apt-get update -q || true; \
for package in $$missing; do $$sudo apt-get install -qy --no-install-recommends $$package >/dev/null \
|| echo "$$package could not be installed: what needs it is skipped" >&2; done
endef

tools:
	$(call need,$(TEST_TOOLS))

bench-tools:
	$(call need,$(BENCH_TOOLS))
