PYTHON ?= python3# 3.11 or newer; makes the virtual environment
VENV ?= .venv
PY = $(VENV)/bin/python
PG = tests/with_postgres tests/with_pgbouncer tests/with_mysql# give a test its databases, AIF_TEST_PG, AIF_TEST_POOLER, AIF_TEST_MYSQL
AIRFLOW = $(PG) tests/with_airflow_mysql# and one for an Airflow on MySQL, AIF_TEST_AIRFLOW_MYSQL
NO_MYSQL = env -u AIF_TEST_AIRFLOW_MYSQL# else all of these run on MySQL, too: test-mysql does that
HANG = timeout --foreground -k 20 -s INT# so that CI ends, and says where
FUZZ_SECONDS ?= 30# for all fuzzers together
SEEDS ?= 100000-
STORE ?= sqlite
HOURS ?= 1
JOBS ?= 2

.PHONY: help deps build venv test test-c test-asan test-tsan test-valgrind test-py test-py-asan test-airflow test-react test-beside \
	test-crash test-mysql test-mysql-core test-soak soak test-sim soak-sim fuzz bench bench-broker demo up down format lint cover clean
help: ## Show this help
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1 /p' Makefile | while read -r t h; do printf '  %-15s %s\n' "$$t" "$$h"; done
include csrc/tests.mk

deps: ## Install the Debian packages that are missing, or say how
	@PYTHON=$(PYTHON) .ci/deps test
venv: $(VENV)/.aiflow ## Make .venv: Airflow and what the tests need
$(VENV)/.aiflow: pyproject.toml constraints.txt
	@PYTHON=$(PYTHON) .ci/deps build
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check 'setuptools>=77' wheel
	$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[test,demo]'
	@touch $@
build: venv ## Build the extension in place
	@$(PY) setup.py -q build_ext --inplace

test: export FUZZ_SEED ?= 1# so that no change meets what chance finds
test: deps build ## Everything a change must pass
	@$(PG) $(MAKE) --no-print-directory lint test-c
	@for pair in "test-py test-asan" "test-py-asan test-tsan" "fuzz test-mysql-core" "test-airflow test-crash" "test-soak test-sim"; do \
		$(PG) $(MAKE) --no-print-directory -j2 -O $$pair || exit 1; done # one of a pair mostly waits
	@test ! -e build/mysql.skipped || cat build/mysql.skipped >&2
test-c: deps ## C tests
	$(SUB) c-tests
test-asan: deps ## C tests, address and undefined-behaviour sanitizers
	$(SUB) c-tests OUT=build/asan SAN='-O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer'
test-tsan: export TSAN_OPTIONS = suppressions=tests/c/tsan.supp:die_after_fork=0
test-tsan: deps ## C tests with threads, thread sanitizer
	$(SUB) c-tests OUT=build/tsan SAN='-O1 -fsanitize=thread' PROGS="$(THREADED)"
test-valgrind: deps ## C tests under valgrind
	$(SUB) c-tests RUN='valgrind -q --leak-check=full --error-exitcode=9'
test-py: build ## Python tests without Airflow; for one file see README.md
	@PYTHONMALLOC=debug $(PG) $(HANG) 12000 $(PY) -X dev -m pytest -q tests/py
test-py-asan: build ## The same, with a sanitized extension
	@AIF_SANITIZE=address,undefined $(PY) setup.py -q build --build-lib build/asan-py
	@$(PG) env LD_PRELOAD="$(shell gcc -print-file-name=libasan.so) $(shell gcc -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/asan-py $(HANG) 12000 $(VENV)/bin/pytest -q tests/py -k 'not libraries_keep and not test_install and not test_fork'
test-airflow: test-react test-beside ## Tests with a real Airflow; with -j2 both halves at once
test-react: build
	@$(PG) $(NO_MYSQL) $(HANG) 14400 $(PY) -m pytest -q tests/airflow/react
test-beside: build
	@$(PG) $(NO_MYSQL) $(HANG) 14400 $(PY) -m pytest -q tests/airflow --ignore=tests/airflow/react
test-crash: build ## kill -9 at every labelled point, then count
	@$(PG) $(NO_MYSQL) $(HANG) 14400 $(PY) -m pytest -q tests/crash
test-soak: build ## Brokers and clients killed at random; AIF_SOAK_EVENTS=10000
	@$(PG) $(HANG) 7200 $(PY) -m pytest -q -s tests/soak
soak: ## The same with 100,000 events
	@AIF_SOAK_EVENTS=100000 $(MAKE) --no-print-directory test-soak
test-mysql: build ## All of these that know a database, with Airflow itself on MySQL
	@$(AIRFLOW) $(HANG) 14400 $(PY) -m pytest -q tests/airflow tests/crash tests/sim -k mysql
test-mysql-core: build ## What proves most of them; skipped where no MySQL server can be had, but not with AIF_TEST_ALL=1
	@mkdir -p build && rm -f build/mysql.skipped
	@if test -n "$$AIF_TEST_AIRFLOW_MYSQL" || .ci/mysql build/mysql; then \
		$(AIRFLOW) $(HANG) 7200 $(PY) -m pytest -q tests/airflow tests/crash tests/sim -k mysql -m core; \
	elif test -n "$$AIF_TEST_ALL"; then \
		echo "test-mysql-core: no MySQL server, and AIF_TEST_ALL is set: see above why .ci/mysql has none, or set AIF_TEST_AIRFLOW_MYSQL to one" >&2; exit 1; \
	else \
		echo "SKIPPED: Airflow on MySQL is NOT TESTED: .ci/mysql found no server; set AIF_TEST_AIRFLOW_MYSQL to mysql://user:password@host:port/database" | \
			tee build/mysql.skipped >&2; \
	fi
test-sim: build ## The whole scheduler, simulated: what fits into three minutes
	@$(PG) $(NO_MYSQL) $(HANG) 7200 $(PY) -m pytest -q tests/sim
soak-sim: build ## The same for hours, from a seed on; SEEDS=100000- STORE=sqlite HOURS=1 JOBS=2
	@$(PG) $(PY) tests/sim/pure.py
	@$(if $(filter mysql,$(STORE)),$(AIRFLOW),$(PG)) $(PY) tests/sim/run.py --store $(STORE) --seeds $(SEEDS) --hours $(HOURS) --jobs $(JOBS) --keep-going
fuzz: deps ## Fuzz the decoders; FUZZ_SECONDS=30 FUZZ_SEED=0 (random)
	$(SUB) fuzz-run CC=clang OUT=build/fuzz SAN='-O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all'

demo: build ## Watch a model learn, and be served, by events: in a real Airflow, which ends afterwards
	@$(PY) examples/demo.py
up: build ## Start an Airflow in event mode with the demo's Dags and its UI, and leave it running
	@$(PY) examples/demo.py up
down: ## Stop what `make up` started
	@$(PY) examples/demo.py down
bench: deps build ## Measure, stock Airflow beside it; writes bench/results and bench/plots
	$(SUB) c-bench
	@$(PG) sh -ec 'for b in $(filter-out bench/report.py bench/on_mysql.py bench/mysql_wake.py bench/plot.py,$(wildcard bench/*.py)); do $(PY) $$b; done'
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt matplotlib
	@$(PY) bench/plot.py
bench-broker: deps build ## The event service beside its peers: JetStream, Redis Streams, notification-service
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt nats-py redis
	$(SUB) c-bench
	@$(PG) $(PY) bench/peers/goals.py --output bench/results/broker_goals.json
	@$(PG) $(PY) bench/peers/run.py --output bench/results/peers.json

format: venv ## Rewrite every file in our style
	$(VENV)/bin/clang-format -i $(C)
	$(VENV)/bin/ruff format -q . && $(VENV)/bin/ruff check -q --fix .
lint: build ## Style, types, warnings of two compilers, exported symbols, walls
	@$(VENV)/bin/clang-format --dry-run -Werror $(C)
	$(VENV)/bin/ruff format -q --check . && $(VENV)/bin/ruff check -q .
	@! nm -AD --defined-only aiflow_ext/_core*.so | grep -v ' PyInit__core$$'
	$(SUB) c-objects
	$(SUB) c-objects CC=clang OUT=build/clang
	@$(PY) -m pytest -q tests/py/test_walls.py
	$(VENV)/bin/mypy --no-error-summary
	$(VENV)/bin/stubtest --mypy-config-file tests/stubtest.ini --concise aiflow_ext._core
cover: ## List the branches of the core that no C test takes
	$(SUB) c-tests OUT=build/cover SAN='-O0 --coverage'
	@tests/uncovered build/cover csrc/core
clean: ## Remove what was built
	@test ! -d build/airflow || $(PY) examples/demo.py down
	rm -rf build aiflow_ext/*.so *.egg-info
