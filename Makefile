# `make setup` makes .venv with fourdgen in it; every other target but clean does that first, and repeats nothing that is
# finished. PYTHON= chooses the interpreter; NO_SETUP=1 uses it as it is, without .venv and without network.

PYTHON ?= python3
VENV := .venv
DEMO := demo
STAMP := $(VENV)/fourdgen.stamp
EXTERNAL := $(VENV)/external.stamp

ifdef NO_SETUP
RUN := $(PYTHON)
READY :=
else
RUN := $(VENV)/bin/python
READY := $(STAMP)
endif

FOURDGEN := $(RUN) -m fourdgen.cli
PYTEST := $(RUN) -m pytest -q

.PHONY: setup check test test-external test-gpu demo bench clean

setup: $(READY)

# The kernels are compiled by the installation, so their sources count as well.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt depth-anything-3 || \
	    echo "depth-anything-3 could not be installed: its tests will be skipped"
	touch $@

check: $(READY)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

test: $(READY)
	$(PYTEST)

# Programs that are not ours: open3d, viser, usd-core and OpenEXR from the package registry, Chromium from the distribution's
# where we may install it (else its tests are skipped, or fail in CI), the others through npm.
$(EXTERNAL): $(STAMP) $(wildcard tests/external/package*.json)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'open3d>=0.19' 'viser>=1.0' 'usd-core>=25.11' 'OpenEXR>=3.3'
	command -v chromium || command -v google-chrome || test "$$(id -u)" != 0 || ! command -v apt-get || \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } || \
	    echo "Chromium could not be installed: the tests that need it will say so"
	npm ci --silent --no-fund --no-audit --prefix tests/external
	touch $@

test-external: $(if $(READY),$(EXTERNAL))
	$(PYTEST) -o addopts="-ra --strict-markers" tests/external

test-gpu: $(READY)
	$(PYTEST) -m gpu

demo: $(READY)
	$(FOURDGEN) reconstruct assets/demo/*.mp4 -o $(DEMO)/scene.ply
	$(FOURDGEN) render $(DEMO)/scene.ply --orbit -o $(DEMO)/scene_orbit.mp4
	@echo "the asset: $(CURDIR)/$(DEMO)/scene.ply"
	@echo "the orbit: $(CURDIR)/$(DEMO)/scene_orbit.mp4"

# The tables of docs/performance.md. Those that score need the bench: make bench BENCH=DIR, or FOURDGEN_BENCH. kill.py wants
# clips of one's own choice; the others left out are parts of scripts.
NO_BENCH = $(patsubst %,benchmarks/%.py,kill stand_ins ablation digest pose_table pose_tasks retimed)
bench: $(READY)
	for file in $(filter-out $(NO_BENCH),$(wildcard benchmarks/*.py)); do $(RUN) $$file $(if $(BENCH),--bench $(BENCH)) || exit 1; done

clean:
	rm -rf build dist $(DEMO) .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find fourdgen tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
