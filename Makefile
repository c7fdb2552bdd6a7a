PYTHON ?= python3# 3.11 or newer; makes the virtual environment
VENV ?= .venv
PY = $(VENV)/bin/python
PG = tests/with_postgres# gives a test its database, AIF_TEST_PG
JOBS ?= $(shell nproc)
SUB = @$(MAKE) -s --no-print-directory -j$(JOBS)

# C tests: make OUT=build/x SAN=flags c-tests.  Objects are kept for each OUT.
OUT ?= build/c
SAN ?= -O2
CFLAGS = -std=c11 -D_POSIX_C_SOURCE=200809L -g -fvisibility=hidden -Wall -Wextra -Wconversion -Wshadow \
	-Wstrict-prototypes -Wmissing-prototypes -Werror -Icsrc/core -Itests/c $(INCS:-I%=-isystem %)
LIBS := $(shell pkg-config --libs libpq libzmq sqlite3) -lpthread
INCS := $(filter -I%,$(shell pkg-config --cflags-only-I libpq libzmq sqlite3))
PYINC = $(shell $(PY) -c 'import sysconfig; print("-isystem", sysconfig.get_path("include"))')
C := $(wildcard csrc/*/*.[ch] tests/*/*.[ch] bench/*.[ch])
CORE := $(wildcard csrc/core/*.c)
PROGS := $(wildcard tests/c/test_*.c)
HELP := $(filter-out $(PROGS),$(wildcard tests/c/*.c))
BENCH := $(patsubst bench/%.c,$(OUT)/%,$(wildcard bench/*.c))
FUZZ := $(notdir $(basename $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_SECONDS ?= 30# for all of them together
NOASLR := $(shell setarch -R true 2>/dev/null && echo setarch -R)# sanitizers need their addresses free
RUN ?= $(NOASLR)
object = $(patsubst %.c,$(OUT)/%.o,$(1))

.PHONY: help deps build venv test test-c test-asan test-tsan test-valgrind test-py test-airflow test-crash \
	fuzz bench demo up down format lint cover clean c-tests c-objects fuzz-run
help: ## Show this help
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1 /p' Makefile | while read -r t h; do printf '  %-14s %s\n' "$$t" "$$h"; done

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

test: deps build ## Everything a change must pass
	@$(PG) $(MAKE) --no-print-directory lint test-c test-py test-asan test-tsan fuzz test-airflow test-crash
test-c: ## C tests
	$(SUB) c-tests
test-asan: ## C tests, address and undefined-behaviour sanitizers
	$(SUB) c-tests OUT=build/asan SAN='-O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer'
test-tsan: ## C tests, thread sanitizer
	$(SUB) c-tests OUT=build/tsan SAN='-O1 -fsanitize=thread'
test-valgrind: ## C tests under valgrind
	$(SUB) c-tests RUN='valgrind -q --leak-check=full --error-exitcode=9'
c-tests: $(PROGS:tests/c/%.c=$(OUT)/%)
	@TSAN_OPTIONS="suppressions=tests/c/tsan.supp $(TSAN_OPTIONS)" $(PG) tests/run_c $(RUN) -- $^
c-objects: $(call object,$(CORE) $(HELP) $(PROGS) $(wildcard csrc/py/*.c tests/fuzz/*.c bench/*.c))

$(OUT)/libaif.a: $(call object,$(CORE) $(HELP))
	@rm -f $@ && ar rcs $@ $^
$(OUT)/test_%: $(OUT)/tests/c/test_%.o $(OUT)/libaif.a
	@$(CC) $(SAN) $< $(OUT)/libaif.a $(LDFLAGS_test_$*) -lcmocka $(LIBS) -o $@
$(OUT)/fuzz_%: $(OUT)/tests/fuzz/fuzz_%.o $(OUT)/libaif.a
	@$(CC) $(SAN) $< $(OUT)/libaif.a $(LIBS) -o $@
$(OUT)/bench_%: $(OUT)/bench/bench_%.o $(OUT)/libaif.a
	@$(CC) $(SAN) $< $(OUT)/libaif.a -lm $(LIBS) -o $@
$(OUT)/csrc/py/%.o: CFLAGS += $(PYINC)
$(OUT)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $(SAN) -MMD -MP -c $< -o $@
-include $(wildcard $(OUT)/*/*.d $(OUT)/*/*/*.d)
.SECONDARY:

test-py: build ## Python tests, no Airflow
	@PYTHONMALLOC=debug $(PG) $(PY) -X dev -m pytest -q tests/py
test-airflow: build ## Tests with a real Airflow
	@$(PG) $(PY) -m pytest -q tests/airflow
test-crash: build ## kill -9 at every labelled point, then count
	@$(PG) $(PY) -m pytest -q tests/crash
fuzz: ## Fuzz the decoders; FUZZ_SECONDS=30
	$(SUB) CC=clang OUT=build/fuzz SAN='-O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all' fuzz-run
fuzz-run: $(FUZZ:%=$(OUT)/%)
	@for f in $(FUZZ); do mkdir -p $(OUT)/corpus/$$f && echo "fuzz $$f" && $(OUT)/$$f -verbosity=0 -print_final_stats=1 \
		-max_total_time=$$(($(FUZZ_SECONDS) / $(words $(FUZZ)))) $(OUT)/corpus/$$f tests/fuzz/corpus/$$f || exit 1; done

demo: build ## Online learning on real images: events, reactions, milliseconds
	@$(PY) examples/demo.py
up: build ## Start Airflow in event mode and leave it running
	@$(PY) examples/demo.py up
down: ## Stop what `make up` started
	@$(PY) examples/demo.py down
bench: deps build $(BENCH) ## Measure, stock Airflow beside it; writes bench/results
	@$(PG) sh -ec 'for b in $(filter-out bench/report.py,$(wildcard bench/*.py)); do $(PY) $$b; done'

format: venv ## Rewrite every file in our style
	$(VENV)/bin/clang-format -i $(C)
	$(VENV)/bin/ruff format -q . && $(VENV)/bin/ruff check -q --fix .
lint: build ## Style, types, warnings of two compilers, exported symbols, walls
	$(VENV)/bin/clang-format --dry-run -Werror $(C)
	$(VENV)/bin/ruff format -q --check . && $(VENV)/bin/ruff check -q .
	@! nm -AD --defined-only aiflow_ext/_core*.so | grep -v ' PyInit__core$$'
	$(SUB) c-objects
	$(SUB) c-objects CC=clang OUT=build/clang
	@$(PY) -m pytest -q tests/py/test_walls.py
	$(VENV)/bin/mypy --no-error-summary
	$(VENV)/bin/stubtest --mypy-config-file pyproject.toml --concise aiflow_ext._core
cover: ## List the branches of the core that no C test takes
	$(SUB) c-tests OUT=build/cover SAN='-O0 --coverage'
	@tests/uncovered build/cover csrc/core
clean: ## Remove what was built
	rm -rf build aiflow_ext/*.so *.egg-info
