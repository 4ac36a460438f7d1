# `make run` starts the daemon and `make test` runs the suite; both need only Python 3.11 or later. `make help` lists the rest.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.ONESHELL:
.DEFAULT_GOAL := help

PYTHON  ?=
CONFIG  ?= config/gateway.toml
PREFIX  ?= /opt/session-gateway
SYSCONF ?= /etc/session-gateway
UNITS   ?= /etc/systemd/system
# Where the unit keeps the state (StateDirectory=).
STATE   := /var/lib/session-gateway
DESTDIR ?=
UPGRADE ?=

PYTHONS := python3 python3.11 python3.12 python3.13 python3.14
BIN := .venv/bin
PIP := -m pip --quiet --disable-pip-version-check
UV_VERSION := 0.13.8
EXTRAS := --extra anthropic --extra matrix --extra mcp --extra openai --extra telegram

# Sets $$python: PYTHON where it is given, else the first suitable one of the names.
define find_python
python=
for name in $(or $(PYTHON),$(1)); do
  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$name"; break; fi
done
if [ -z "$$python" ]; then
  echo "make: Python 3.11 or later is needed; tried $(or $(PYTHON),$(1)). Name yours: make PYTHON=/path/to/python3" >&2
  exit 1
fi
if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
  package="python$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
  echo "make: $$python lacks venv or ensurepip. Install them (Debian, Ubuntu: apt install $$package), then try again" >&2
  exit 1
fi
endef

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

.PHONY: run
run: .venv/.stamp ## start the daemon with CONFIG (config/gateway.toml)
	@exec $(BIN)/gateway run --config $(CONFIG)

.PHONY: test
test: .venv/.stamp .synapse/.stamp ## run the whole test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not torture and not alone"
	$(BIN)/python -m pytest -m "alone and not torture"

.PHONY: torture
torture: .venv/.stamp .synapse/.stamp ## crash, kill and damage the store for about two hours, and count
	$(BIN)/python -m pytest -m torture -o faulthandler_timeout=3600

.PHONY: coverage
coverage: .venv/.stamp .synapse/.stamp ## run the suite and show which branches no test takes
	$(BIN)/python -m pytest --cov --cov-report=term-missing

.PHONY: check lint types layers dependencies unit
check: lint types layers dependencies unit ## lint, format, types, layers, dependencies, systemd unit

lint: .venv/.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.stamp
	$(BIN)/mypy

layers: .venv/.stamp
	$(BIN)/python -m pytest tests/test_layers.py

dependencies: .venv/.stamp
	$(BIN)/python -m pytest tests/test_packaging.py
	$(BIN)/python $(PIP) check

# The program is not at its place yet, so another one stands in for it. `verify` says some faults only on stderr.
unit:
	@if ! command -v systemd-analyze >/dev/null; then
	  echo "make: NOT CHECKED: the units in systemd/ (there is no systemd-analyze here; Debian: apt install systemd)" >&2
	  exit 0
	fi
	dir="$$(mktemp -d)"
	trap 'rm -rf "$$dir"' EXIT
	for unit in gateway:20 gateway-runner:50; do
	  service="$${unit%:*}.service"
	  sed 's|^ExecStart=[^ ]*|ExecStart=/bin/sh|' "systemd/$$service" > "$$dir/$$service"
	  if ! systemd-analyze --man=no verify "$$dir/$$service" 2> "$$dir/faults" || [ -s "$$dir/faults" ]; then
	    cat "$$dir/faults" >&2
	    exit 1
	  fi
	  systemd-analyze security --offline=true --threshold="$${unit#*:}" "systemd/$$service" > "$$dir/exposure" || failed=1
	  tail -n 1 "$$dir/exposure"
	done
	exit "$${failed:-0}"

.PHONY: fmt
fmt: .venv/.stamp ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: .venv/.bench ## measure every goal for about ten minutes: a table, JSON, docs/growth.svg
	$(BIN)/python -m tests.bench

.PHONY: install
install: .venv/.stamp ## install under PREFIX (/opt/session-gateway) with the systemd unit; DESTDIR stages it
	@$(call find_python,/usr/bin/python3 $(PYTHONS))
	case "$$("$$python" -c 'import os, sys; print(os.path.realpath(sys.base_prefix))')/" in
	/root/*|/home/*)
	  echo "make: $$python lives in a home directory, which the unit hides; choose: make install PYTHON=/usr/bin/python3" >&2
	  exit 1;;
	esac
	umask 022
	stage="$(DESTDIR)"
	venv="$$stage$(PREFIX)/venv"
	wheels="$$(mktemp -d)"
	trap 'rm -rf "$$wheels"' EXIT
	$(BIN)/python $(PIP) wheel --no-deps --no-build-isolation --wheel-dir "$$wheels" .
	"$$venv/bin/python" -c 'import pip' 2>/dev/null || "$$python" -m venv --clear "$$venv"
	"$$venv/bin/python" $(PIP) install --require-hashes -r requirements/runtime.txt
	"$$venv/bin/python" $(PIP) install --no-deps --force-reinstall "$$wheels"/*.whl
	if [ -n "$$stage" ]; then
	  grep -lIrF "$$stage" "$$venv/bin" "$$venv/pyvenv.cfg" | xargs -r sed -i "s|$$stage||g"
	fi
	install -d "$$stage$(SYSCONF)" "$$stage$(UNITS)"
	if [ -e "$$stage$(SYSCONF)/gateway.toml" ]; then
	  echo "kept $(SYSCONF)/gateway.toml"
	else
	  sed 's|^state_dir = .*|state_dir = "$(STATE)"|' config/gateway.toml > "$$wheels/gateway.toml"
	  install -m 644 "$$wheels/gateway.toml" "$$stage$(SYSCONF)/gateway.toml"
	fi
	sed 's|^ExecStart=.*|ExecStart=$(PREFIX)/venv/bin/gateway run --config $(SYSCONF)/gateway.toml|' systemd/gateway.service \
	  > "$$wheels/gateway.service"
	install -m 644 "$$wheels/gateway.service" "$$stage$(UNITS)/gateway.service"
	sed 's|^ExecStart=[^ ]*|ExecStart=$(PREFIX)/venv/bin/gateway|' systemd/gateway-runner.service > "$$wheels/gateway-runner.service"
	install -m 644 "$$wheels/gateway-runner.service" "$$stage$(UNITS)/gateway-runner.service"
	useradd="useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin gateway"
	if [ -z "$$stage" ] && ! getent passwd gateway >/dev/null; then $$useradd; fi
	echo "installed $(PREFIX)/venv, $(SYSCONF)/gateway.toml and $(UNITS)/gateway.service$${stage:+ below $$stage}. Next:"
	if [ -n "$$stage" ]; then echo "  $$useradd"; fi
	echo "  edit $(SYSCONF)/gateway.toml; $(PREFIX)/venv/bin/gateway check-config --config $(SYSCONF)/gateway.toml"
	echo "  systemctl daemon-reload"
	echo "  systemctl enable --now gateway    (after an upgrade: systemctl restart gateway)"
	echo "  sudo -u gateway $(PREFIX)/venv/bin/gateway status --config $(SYSCONF)/gateway.toml"

.PHONY: lock
lock: ## pin the dependencies anew in requirements/ (UPGRADE=--upgrade for newer versions)
	@$(call find_python,$(PYTHONS))
	dir="$$(mktemp -d)"
	trap 'rm -rf "$$dir"' EXIT
	"$$python" -m venv "$$dir"
	"$$dir/bin/python" $(PIP) install uv==$(UV_VERSION)
	compile() {
	  "$$dir/bin/uv" pip compile --quiet --no-config --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --universal --python-version 3.11 $(UPGRADE) "$$@"
	}
	compile $(EXTRAS) --output-file requirements/runtime.txt pyproject.toml
	compile $(EXTRAS) --group dev --constraint requirements/runtime.txt --output-file requirements/dev.txt pyproject.toml
	compile --group bench --constraint requirements/dev.txt --output-file requirements/bench.txt
	compile --group synapse --output-file requirements/synapse.txt

.PHONY: clean
clean: ## remove what make and the tools built; state/ stays
	rm -rf .venv .synapse build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find gateway tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp names its checkout: in a copied or moved one .venv would still run the old place, so it is built anew.
ifneq ($(shell cat .venv/.stamp 2>/dev/null),$(CURDIR))
.venv/.stamp: FORCE
endif

.venv/.stamp: requirements/dev.txt pyproject.toml
	@if [ "$$(cat $@ 2>/dev/null)" != "$(CURDIR)" ] || ! $(BIN)/python -c 'import pip' 2>/dev/null; then
	  $(call find_python,$(PYTHONS))
	  echo "make: building .venv with $$python ..." >&2
	  "$$python" -m venv --clear .venv
	fi
	echo "make: installing requirements/dev.txt ..." >&2
	$(BIN)/python $(PIP) install --require-hashes -r requirements/dev.txt
	$(BIN)/python $(PIP) install --no-deps --no-build-isolation --editable .
	echo "$(CURDIR)" > $@

.venv/.bench: .venv/.stamp requirements/bench.txt
	@echo "make: installing requirements/bench.txt ..." >&2
	$(BIN)/python $(PIP) install --require-hashes -r requirements/bench.txt
	touch $@

# The homeserver of the Matrix tests. Without it they are skipped, aloud; in CI nothing may be.
.synapse/.stamp: requirements/synapse.txt
	@$(call find_python,$(PYTHONS))
	echo "make: installing requirements/synapse.txt in .synapse, once, for the tests of Matrix ..." >&2
	if "$$python" -m venv --clear .synapse && .synapse/bin/python $(PIP) install --require-hashes -r requirements/synapse.txt; then
	  touch $@
	else
	  echo "make: NOT INSTALLED: the homeserver in .synapse; the tests of Matrix are skipped" >&2
	  rm -rf .synapse
	  test -z "$${CI:-}"
	fi

.PHONY: FORCE
FORCE:
