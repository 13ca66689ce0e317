# make demo    the whole path on this machine: fleet file to chat answer, to sleep, to wake
# make test    every test but the long ones, real guests included
# make test-long  the long ones: more that can befall a real guest or a host; as long again
# make bench   what the numbers are, against others: make bench ROWS=PREFIX for some of them
# make check   format, lint, types, import layers, playbooks
# make lock    renew the pinned dependencies
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# A machine may be told to keep no bytecode; here every command is started hundreds of times.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help demo test test-guests test-hosts test-rest test-long bench peers check format lock clean lab-packages test-packages

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := tests/requirements
# Only what has been out for a week is pinned: a bad release is usually withdrawn before that.
QUARANTINE := $(shell date -u -d '7 days ago' +%Y-%m-%dT00:00:00Z)

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed: install it, or name one with make PYTHON=/path/to/python3"; exit 1; }
	@echo "setup: a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  echo "setup: installing Debian package python3-venv (virtual environments)"; \
	  $$sudo apt-get update -q >/dev/null && $$sudo apt-get install -qy python3-venv >/dev/null && \
	  $(PYTHON) -m venv --clear $(VENV); } || { rm -rf $(VENV); exit 1; }

$(VENV)/.lab: $(VENV)/pyvenv.cfg $(LOCKS)/lab.lock pyproject.toml
	@echo "setup: Python packages (pinned in $(LOCKS)/lab.lock)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(LOCKS)/lab.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.lab $(LOCKS)/dev.lock
	@echo "setup: development packages (pinned in $(LOCKS)/dev.lock)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(LOCKS)/dev.lock
	@touch $@

# What others made, to test and to measure against; nothing of it is installed.
$(VENV)/.peers: $(VENV)/.dev $(LOCKS)/peers.lock
	@echo "setup: the Ansible collection community.proxmox, taken out of a 50 MB wheel (pinned in $(LOCKS)/peers.lock)"
	@$(BIN)/python -m tests.peers
	@touch $@

peers: $(VENV)/.peers

# Says itself what it installs and why; without the right to install, the demo goes on with simulated guests.
lab-packages: $(VENV)/.lab
	@$(BIN)/python -m provisioner.lab.host_packages || true

# A login server is nothing that a demo may bring to somebody's machine.
test-packages: $(VENV)/.lab
	@$(BIN)/python -m provisioner.lab.host_packages --with-tests || true

demo: lab-packages
	@$(BIN)/provisioner demo $(DEMO)

test: $(VENV)/.dev $(VENV)/.peers test-packages
ifdef TESTS
	@$(BIN)/pytest $(TESTS)
else
# Side by side, for each waits much: for guests, for logins, for tasks.
	@echo "tests: real guests, hosts, and all others side by side; what a part printed comes when it has ended (half an hour)"
	@$(MAKE) --no-print-directory --keep-going --jobs=3 --output-sync=target test-guests test-hosts test-rest
endif

test-guests:
	@$(BIN)/pytest -m "qemu and not long"

test-hosts:
	@$(BIN)/pytest -m "not qemu and not long" tests/hosts

test-rest:
	@$(BIN)/pytest -m "not qemu and not long" --ignore tests/hosts

test-long: $(VENV)/.dev $(VENV)/.peers test-packages
	@$(BIN)/pytest -m long

bench: $(VENV)/.dev $(VENV)/.peers
	@$(BIN)/python -m tests.bench $(ROWS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/ansible-lint --offline -q playbooks

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.dev
	$(BIN)/uv pip compile pyproject.toml $(LOCKS)/build.in --extra lab --universal --python-version 3.11 --generate-hashes \
	  --exclude-newer $(QUARANTINE) --no-header --no-annotate --quiet --upgrade -o $(LOCKS)/lab.lock
	$(BIN)/uv pip compile pyproject.toml $(LOCKS)/build.in --extra lab --group dev --universal --python-version 3.11 \
	  --generate-hashes --exclude-newer $(QUARANTINE) --no-header --no-annotate --quiet --upgrade -o $(LOCKS)/dev.lock
	$(BIN)/uv pip compile $(LOCKS)/peers.in --python-version 3.12 --no-deps \
	  --generate-hashes --exclude-newer $(QUARANTINE) --no-header --no-annotate --quiet --upgrade -o $(LOCKS)/peers.lock

clean:
	rm -rf $(VENV) build dist
