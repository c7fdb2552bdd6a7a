#include "cmocka_all.h"

#include "fault_store.h"
#include "log/log.h"
#include "store_contract.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];
static char path[100];
static store_case c;
static aif_error e;

static void
remove_file(const char *suffix)
{
    char name[128];

    (void)snprintf(name, sizeof name, "%s%s", path, suffix);
    (void)unlink(name);
}

static void
remove_log(void)
{
    remove_file("");
    remove_file("-wal");
    remove_file("-shm");
    remove_file(".away");
}

static void
fresh(void)
{
    static int n;

    remove_log();
    (void)snprintf(path, sizeof path, "%s/log-%d", dir, n++);
    (void)snprintf(c.uri, sizeof c.uri, "sqlite:%s", path);
}

static void
sql(const char *text)
{
    sqlite3 *db;

    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK) {
        fail_msg("%s: %s", text, sqlite3_errmsg(db));
    }
    (void)sqlite3_close(db);
}

static void
hold(bool on)
{
    static sqlite3 *db;

    if (!on) {
        (void)sqlite3_close(db);
        return;
    }
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL),
                     SQLITE_OK);
}

static void
fault(int n)
{
    fault_sqlite_after(n, n % 2 == 0 ? ENOSPC : EIO);
}

static mode_t
mode_of(const char *suffix)
{
    char name[128];
    struct stat st;

    (void)snprintf(name, sizeof name, "%s%s", path, suffix);
    assert_int_equal(stat(name, &st), 0);
    return st.st_mode;
}

static void
its_files_are_for_the_owner_alone(void **state)
{
    mode_t before = umask(0);

    contract_open(state);
    append_at(*state, events_of("p", 0, 1), 1, 1);
    (void)umask(before);
    assert_int_equal(mode_of(""), S_IFREG | 0600);
    assert_int_equal(mode_of("-wal"), S_IFREG | 0600);
    assert_int_equal(mode_of("-shm"), S_IFREG | 0600);
}

static void
what_is_not_a_log_is_refused(void **state)
{
    char bytes[4096];
    aif_log *log;
    int fd;

    (void)state;
    memset(bytes, 'x', sizeof bytes);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    (void)close(fd);
    assert_int_equal(aif_log_open(c.uri, &log, &e), AIF_ECORRUPT);
    assert_non_null(strstr(e.text, "file is not a database"));
    assert_non_null(strstr(e.text, path));
}

static void
a_place_that_cannot_be_is_said(void **state)
{
    aif_log *log;

    (void)state;
    assert_int_equal(aif_log_open("sqlite:/nowhere/log", &log, &e),
                     AIF_ESTORE);
    assert_string_equal(e.text,
                        "creating /nowhere/log: No such file or directory");
    assert_int_equal(aif_log_open("sqlite:/", &log, &e), AIF_ESTORE);
    assert_int_equal(aif_log_open("sqlite:", &log, &e), AIF_EINVAL);
    assert_int_equal(aif_log_open("sqlite::memory:", &log, &e), AIF_EINVAL);
    assert_string_equal(e.text, "'sqlite::memory:' names no file: write "
                                "sqlite:PATH, or mem: for a log in memory");
}

/* What kill -9 cannot show: a machine that loses power. */
static void
every_append_is_on_the_disk(void **state)
{
    for (uint64_t i = 0; i < 20; i++) {
        const int before = fault_store_syncs();

        append_at(*state, events_of("p", i, 1), 1, i + 1);
        assert_in_range(fault_store_syncs(), before + 1, before + 3);
    }
}

/* Open, append and read while the n-th allocation of SQLite's fails; what
 * failed is as it was. */
static bool
work_without_memory(int n)
{
    const aif_pattern p = {AIF_STR("d*"), AIF_STR("digits"), AIF_STR("*"),
                           AIF_STR("*"), AIF_STR("*")};
    uint64_t offsets[3];
    aif_batch out = {0};
    aif_log *log;
    aif_err err;

    fault_sqlite_memory_after(n);
    err = aif_log_open(c.uri, &log, &e);
    if (err == AIF_OK) {
        err = aif_log_append(log, events_of("p", (uint64_t)n * 3, 3), 3,
                             offsets, NULL, &e);
    }
    if (err == AIF_OK) {
        err = aif_log_read(log, MATCHING(&p, 0), 10000, &out, &e);
    }
    fault_store_off();
    if (err != AIF_OK && err != AIF_ENOMEM) {
        fail_msg("allocation %d: %s", n, e.text);
    }
    assert_true(out.n == 0 || out.n == offsets[2]);
    aif_batch_fini(&out);
    aif_log_free(log);
    return fault_store_fired();
}

static void
it_survives_every_oom_of_sqlites(void **state)
{
    aif_log *log;
    int n = 0;

    (void)state;
    while (work_without_memory(n)) {
        n++;
    }
    assert_in_range(n, 50, 5000);
    log = open_again();
    assert_int_equal(count_of(log), head_of(log));
    assert_int_equal(count_of(log) % 3, 0);
    aif_log_free(log);
}

/* The n-th allocation of SQLite's fails in a purge, or in what is asked
 * after it. */
static bool
purge_without_memory(int n)
{
    uint64_t gone = 0;
    aif_buf out = {0};
    aif_log *log;
    aif_err err;

    fresh();
    log = open_again();
    append_at(log, events_of("p", 0, 6), 6, 1);
    fault_sqlite_memory_after(n);
    err = aif_log_purge(log, AIF_STR("def*"), 3, 9, &gone, &e);
    if (err == AIF_OK) {
        err = aif_log_senders(log, AIF_BEYOND(0), &out, &e);
    }
    if (err == AIF_OK) {
        err = read_all(log, AIF_BEYOND(1), &e);
    }
    fault_store_off();
    if (err != AIF_ERETENTION && err != AIF_ENOMEM) {
        fail_msg("allocation %d: %s", n, e.text);
    }
    assert_true(gone == 0 || gone == 3);
    assert_int_equal(count_of(log), 6 - gone);
    assert_int_equal(purge(log, AIF_STR("def*"), 3, 9), 3 - gone);
    aif_buf_fini(&out);
    aif_log_free(log);
    return fault_store_fired();
}

static void
a_purge_survives_every_oom_of_sqlites(void **state)
{
    int n = 0;

    (void)state;
    while (purge_without_memory(n)) {
        n++;
    }
    assert_in_range(n, 20, 5000);
}

/* Overwrite a page of events with rubbish. */
static void
a_corrupt_page_is_said(void **state)
{
    char bytes[4096];
    aif_batch out = {0};
    aif_log *log = open_again();
    int fd;

    (void)state;
    append_at(log, events_of("p", 0, 2000), 2000, 1);
    aif_log_free(log);
    sql("PRAGMA wal_checkpoint(TRUNCATE)");
    memset(bytes, 0x5a, sizeof bytes);
    fd = open(path, O_WRONLY);
    for (off_t page = 6; page < 20; page++) {
        assert_int_equal(pwrite(fd, bytes, sizeof bytes, page * 4096),
                         sizeof bytes);
    }
    (void)close(fd);
    log = open_again();
    assert_int_equal(aif_log_read(log, AIF_BEYOND(0), 2000, &out, &e),
                     AIF_ECORRUPT);
    assert_int_equal(out.n, 0);
    aif_batch_fini(&out);
    aif_log_free(log);
}

/* A limit on the size of files stands for the disk. */
static void
a_full_disk_is_survived(void **state)
{
    struct rlimit was;
    struct rlimit full;
    uint64_t offsets[100];
    uint64_t n = 0;

    append_at(*state, events_of("p", 0, 100), 100, 1);
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    full = was;
    full.rlim_cur = 512 << 10;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);
    do {
        n += 100;
        e.code = aif_log_append(*state, events_of("p", n, 100), 100, offsets,
                                NULL, &e);
    } while (e.code == AIF_OK && n < 100000);
    assert_int_equal(e.code, AIF_ESTORE);
    assert_int_equal(count_of(*state), n);
    assert_int_equal(
        aif_log_append(*state, events_of("p", n, 100), 100, offsets, NULL, &e),
        AIF_ESTORE);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    append_at(*state, events_of("p", n, 100), 100, n + 1);
    assert_stored(n + 100);
}

/* Appends would go to a file without a name, and be lost. */
static void
a_file_that_was_moved_is_noticed(void **state)
{
    uint64_t offset;
    char away[128];

    append_at(*state, events_of("p", 0, 2), 2, 1);
    sql("PRAGMA wal_checkpoint(TRUNCATE)");
    (void)snprintf(away, sizeof away, "%s.away", path);
    assert_int_equal(rename(path, away), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(
            aif_log_append(*state, events_of("p", 2, 1), 1, &offset, NULL, &e),
            AIF_ESTORE);
        assert_int_not_equal(access(path, F_OK), 0); /* not made anew */
    }
    assert_int_equal(rename(away, path), 0);
    append_at(*state, events_of("p", 2, 2), 2, 3);
    assert_stored(4);
}

/* Waits 5 s for the lock, and no longer. */
static void
a_lock_that_is_never_given_back_is_estore(void **state)
{
    uint64_t offset;

    append_at(*state, events_of("p", 0, 2), 2, 1);
    hold(true);
    assert_int_equal(
        aif_log_append(*state, events_of("p", 2, 1), 1, &offset, NULL, &e),
        AIF_ESTORE);
    assert_non_null(strstr(e.text, "database is locked"));
    assert_int_equal(count_of(*state), 2); /* reading goes on */
    hold(false);
    append_at(*state, events_of("p", 2, 1), 1, 3);
}

/* A log as version 1 made it, whose first two events somebody deleted. */
static void
make_version_1(int first)
{
    char text[200];

    sql("PRAGMA journal_mode = WAL;"
        "CREATE TABLE aiflow_event (\"offset\" INTEGER PRIMARY KEY,"
        " create_time INTEGER NOT NULL, namespace TEXT NOT NULL,"
        " key TEXT NOT NULL, value TEXT NOT NULL, type TEXT NOT NULL,"
        " sender TEXT NOT NULL, context TEXT NOT NULL,"
        " producer TEXT NOT NULL, sequence INTEGER NOT NULL);"
        "CREATE UNIQUE INDEX aiflow_event_identity"
        " ON aiflow_event (producer, sequence);"
        "CREATE TABLE aiflow_log_head (id INTEGER PRIMARY KEY CHECK (id = 1),"
        " version INTEGER NOT NULL, \"offset\" INTEGER NOT NULL);"
        "INSERT INTO aiflow_log_head VALUES (1, 1, 5);");
    for (int i = first; i <= 5; i++) {
        (void)snprintf(text, sizeof text,
                       "INSERT INTO aiflow_event VALUES (%d, %d, 'default',"
                       " 'digits', '17', 'UNDEFINED', '', '', 'p', %d)",
                       i, 9000 + i, i);
        sql(text);
    }
}

static void
a_killed_conversion_is_all_or_nothing(void **state)
{
    (void)state;
    make_version_1(3);
    contract_die_at("convert.before_commit");
    /* fits only the table as it was */
    sql("INSERT INTO aiflow_log_head VALUES (1, 1, 5)"
        " ON CONFLICT (id) DO UPDATE SET version = excluded.version"
        " WHERE version <> 1");
    contract_converted(3, 9005);
}

#define FRESH(test)                                                           \
    cmocka_unit_test_setup_teardown(test, contract_fresh, contract_close)

static void
a_file_in_utf16_is_refused(void **state)
{
    aif_log *log;

    (void)state;
    sql("PRAGMA encoding = 'UTF-16'; CREATE TABLE theirs (a)");
    assert_int_equal(aif_log_open(c.uri, &log, &e), AIF_EINVAL);
    assert_non_null(strstr(e.text, "keeps its texts in UTF-16"));
}

static int
own_tests(void)
{
    const struct CMUnitTest tests[] = {
        FRESH(its_files_are_for_the_owner_alone),
        FRESH(what_is_not_a_log_is_refused),
        FRESH(a_place_that_cannot_be_is_said),
        FRESH(a_killed_conversion_is_all_or_nothing),
        FRESH(a_file_in_utf16_is_refused),
        FRESH(a_corrupt_page_is_said),
        FRESH(it_survives_every_oom_of_sqlites),
        FRESH(a_purge_survives_every_oom_of_sqlites),
        OPEN(every_append_is_on_the_disk),
        OPEN(a_full_disk_is_survived),
        OPEN(a_file_that_was_moved_is_noticed),
        OPEN(a_lock_that_is_never_given_back_is_estore),
    };
    return store_contract_convert(make_version_1) +
           cmocka_run_group_tests(tests, NULL, NULL);
}

int
main(void)
{
    const char *tmp = getenv("TMPDIR");
    int failed;

    fault_sqlite_memory_init();
    (void)snprintf(dir, sizeof dir, "%.40s/aiflow-XXXXXX",
                   tmp == NULL ? "/tmp" : tmp);
    if (mkdtemp(dir) == NULL) {
        perror(dir);
        return 1;
    }
    c = (store_case){.file = true,
                     .fresh = fresh,
                     .sql = sql,
                     .hold = hold,
                     .fault = fault};
    failed = store_contract(&c) + own_tests();
    remove_log();
    (void)rmdir(dir);
    return failed;
}
