# How a C test, a fuzzer or a bench is made: make OUT=build/x SAN=flags c-tests.
# The core is compiled once for each OUT; the extension is setup.py's.
OUT ?= build/c
SAN ?= -O2
JOBS ?= $(shell nproc)
SUB = @$(MAKE) -s --no-print-directory -j$(JOBS)
NOASLR := $(shell setarch -R true 2>/dev/null && echo setarch -R)# sanitizers need their addresses free
RUN ?= $(NOASLR)
PYINC = $(shell $(PY) -c 'import sysconfig; print("-isystem", sysconfig.get_path("include"))')
LIBRARIES := libpq libzmq sqlite3
INCS := $(patsubst -I%,-isystem %,$(filter -I%,$(shell pkg-config --cflags $(LIBRARIES) libmariadb 2>/dev/null)))
LIBS := $(shell pkg-config --libs $(LIBRARIES) 2>/dev/null) -lpthread -ldl# libmariadb is loaded: csrc/core/db/mysql_load.h
CFLAGS = -std=c11 -D_POSIX_C_SOURCE=200809L -g -fvisibility=hidden -Wall -Wextra -Wconversion -Wshadow \
	-Wstrict-prototypes -Wmissing-prototypes -Werror -Icsrc/core -Itests/c $(INCS)

CORE := $(wildcard csrc/core/*/*.c)
PROGS := $(wildcard tests/c/test_*.c)
THREADED := $(filter-out %_crash.c,$(shell grep -lE 'pthread\.h|broker_fixture\.h|broker\.h|kill_connections' $(PROGS)))# killed processes have no races to tell
HELP := $(filter-out tests/c/test_%,$(wildcard tests/c/*.c))
BENCH := $(OUT)/bench_log $(OUT)/bench_broker
FUZZ := $(notdir $(basename $(wildcard tests/fuzz/fuzz_*.c)))
C := $(wildcard csrc/core/*/*.[ch] csrc/py/*.[ch] tests/*/*.[ch] bench/*.[ch] bench/broker/*.[ch])
object = $(patsubst %.c,$(OUT)/%.o,$(1))

.PHONY: c-tests c-objects c-bench fuzz-run
c-tests: $(PROGS:tests/c/%.c=$(OUT)/%)
	@$(PG) tests/run_c $(RUN) -- $^
c-objects: $(call object,$(filter %.c,$(C)))
c-bench: $(BENCH)
fuzz-run: $(FUZZ:%=$(OUT)/%)
	@tests/run_fuzz $(FUZZ_SECONDS) $^

$(OUT)/libaif.a: $(call object,$(CORE) $(HELP))
	@rm -f $@ && ar rcs $@ $^
$(OUT)/test_%: $(OUT)/tests/c/test_%.o $(OUT)/libaif.a
	@$(CC) $(SAN) $< $(OUT)/libaif.a $(LDFLAGS_test_$*) -lcmocka $(LIBS) -o $@
$(OUT)/fuzz_%: $(OUT)/tests/fuzz/fuzz_%.o $(OUT)/libaif.a
	@$(CC) $(SAN) $< $(OUT)/libaif.a $(LIBS) -o $@
$(OUT)/bench_log: $(OUT)/bench/bench_log.o $(OUT)/libaif.a
$(OUT)/bench_broker: $(call object,$(wildcard bench/broker/*.c)) $(OUT)/libaif.a
$(BENCH):
	@$(CC) $(SAN) $^ $(LIBS) -o $@
$(OUT)/csrc/py/%.o: CFLAGS += $(PYINC)
$(OUT)/%.o: %.c Makefile csrc/tests.mk
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS) $(SAN) -MMD -MP -c $< -o $@
-include $(wildcard $(OUT)/*/*.d $(OUT)/*/*/*.d $(OUT)/*/*/*/*.d)
.SECONDARY:
