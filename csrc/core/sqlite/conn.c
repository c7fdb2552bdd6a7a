/* sqlite/conn.c - open a log's SQLite file, make or check its schema, prepare.
 *
 * A file that was moved away or deleted is opened again, once it is back;
 * never made anew by a handle that has seen it.
 */
#define _XOPEN_SOURCE 700 /* mknod */
#include "sqlite/conn.h"

#include "base/mem.h"
#include "base/point.h"
#include "log/store.h"
#include "log/where.h"

#include <errno.h>
#include <sys/stat.h>

#define RETRY_MS 20
#define NUMBER(n) TEXT(n)
#define TEXT(n) #n

/* Measured with bench_log, 1,000 events at a time, on ext4: wal_autocheckpoint
 * 4000 or pages of 8192 are within the noise.  The WAL is written over and
 * over, 90 us a commit where growing it costs 370: it should be full soon. */
static const char SETTINGS[] = "PRAGMA synchronous = FULL;"
                               "PRAGMA cache_size = -32768;"
                               "PRAGMA wal_autocheckpoint = 1000;";

/* An index on (key) would serve "list by exact key", and costs too much:
 * 50,000 events/s at batch 1000 instead of 130,000 (1,000 keys: each append
 * writes a page for each).  Add one to your copy if you query by key. */
#define PURGED_TABLE                                                          \
    "CREATE TABLE aiflow_log_purged ("                                        \
    "  namespace TEXT PRIMARY KEY,"                                           \
    "  upto INTEGER NOT NULL,"                                                \
    "  events INTEGER NOT NULL,"                                              \
    "  purged_at INTEGER NOT NULL) WITHOUT ROWID;"

static const char SCHEMA[] =
    "CREATE TABLE aiflow_event ("
    "  \"offset\" INTEGER PRIMARY KEY,"
    "  create_time INTEGER NOT NULL,"
    "  namespace TEXT NOT NULL,"
    "  key TEXT NOT NULL,"
    "  value TEXT NOT NULL,"
    "  type TEXT NOT NULL,"
    "  sender TEXT NOT NULL,"
    "  context TEXT NOT NULL,"
    "  producer TEXT NOT NULL,"
    "  sequence INTEGER NOT NULL);"
    "CREATE UNIQUE INDEX aiflow_event_identity"
    "  ON aiflow_event (producer, sequence);"
    "CREATE TABLE aiflow_log_head ("
    "  id INTEGER PRIMARY KEY CHECK (id = 1),"
    "  version INTEGER NOT NULL,"
    "  \"offset\" INTEGER NOT NULL,"
    "  purged INTEGER NOT NULL,"
    "  create_time INTEGER NOT NULL);" PURGED_TABLE
    "INSERT INTO aiflow_log_head"
    " VALUES (1, " NUMBER(AIF_STORE_VERSION) ", 0, 0, 0)";

/* From version 1.  What was deleted by hand from its front (there was no
 * other way) was let go. */
static const char CONVERT[] =
    "ALTER TABLE aiflow_log_head"
    "  ADD COLUMN purged INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE aiflow_log_head"
    "  ADD COLUMN create_time INTEGER NOT NULL DEFAULT 0;" PURGED_TABLE
    "UPDATE aiflow_log_head SET version = 2,"
    "  purged = coalesce((SELECT min(\"offset\") - 1 FROM aiflow_event),"
    "    \"offset\"),"
    "  create_time = coalesce((SELECT create_time FROM aiflow_event"
    "    ORDER BY \"offset\" DESC LIMIT 1), 0);"
    "INSERT INTO aiflow_log_purged"
    "  SELECT '*', purged, purged, CAST((julianday('now') - 2440587.5)"
    "    * 86400000 AS INTEGER) FROM aiflow_log_head WHERE purged > 0";

static const char EXISTS[] =
    "SELECT count(*) FROM sqlite_schema WHERE name = 'aiflow_log_head'";
static const char VERSION[] =
    "SELECT version FROM aiflow_log_head WHERE id = 1";

#define COLUMNS                                                               \
    "\"offset\", create_time, namespace, key, value, type, sender, context,"  \
    " producer, sequence"
#define ASKED "FROM aiflow_event WHERE \"offset\" > ?1 AND \"offset\" <= ?2"

/* Patterns come between the two. */
static const char *const STATEMENTS[AIF_SQL_STMTS][2] = {
    [AIF_SQL_BEGIN] = {"BEGIN IMMEDIATE", ""},
    [AIF_SQL_COMMIT] = {"COMMIT", ""},
    [AIF_SQL_ROLLBACK] = {"ROLLBACK", ""},
    [AIF_SQL_HEAD] = {"SELECT \"offset\", purged, create_time"
                      " FROM aiflow_log_head WHERE id = 1",
                      ""},
    [AIF_SQL_BUMP] = {"UPDATE aiflow_log_head"
                      " SET \"offset\" = ?1, create_time = ?2 WHERE id = 1",
                      ""},
    [AIF_SQL_INSERT] = {"INSERT INTO aiflow_event (" COLUMNS ")"
                        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
                        " ON CONFLICT (producer, sequence) DO NOTHING",
                        ""},
    [AIF_SQL_KNOWN] = {"SELECT coalesce((SELECT \"offset\" FROM aiflow_event"
                       " WHERE producer = ?1 AND sequence = ?2), 0)",
                       ""},
    [AIF_SQL_SEQUENCE] = {"SELECT coalesce(max(sequence), 0)"
                          " FROM aiflow_event WHERE producer = ?1",
                          ""},
    [AIF_SQL_DELETE] = {"DELETE FROM aiflow_event WHERE \"offset\" = ?1", ""},
    [AIF_SQL_UPTO] = {"SELECT coalesce((SELECT upto FROM aiflow_log_purged"
                      " WHERE namespace = ?1), 0)",
                      ""},
    [AIF_SQL_ADD_PURGED] =
        {"INSERT INTO aiflow_log_purged AS row"
         " VALUES (?1, ?2, ?3, ?4)"
         " ON CONFLICT (namespace) DO UPDATE SET"
         " upto = max(row.upto, ?2), events = row.events + ?3,"
         " purged_at = ?4",
         ""},
    [AIF_SQL_SET_PURGED] = {"UPDATE aiflow_log_head"
                            " SET purged = max(purged, ?1) WHERE id = 1",
                            ""},
    [AIF_SQL_PURGED] = {"SELECT namespace, upto, events"
                        " FROM aiflow_log_purged ORDER BY namespace",
                        ""},
    /* ?3: max; ?3: how many to pass over; ?3: max */
    [AIF_SQL_READ] = {"SELECT " COLUMNS " " ASKED,
                      " ORDER BY \"offset\" LIMIT ?3"},
    [AIF_SQL_COUNT] = {"SELECT count(*) " ASKED, ""},
    [AIF_SQL_NEWEST] = {"SELECT coalesce((SELECT \"offset\" " ASKED,
                        " ORDER BY \"offset\" DESC LIMIT 1 OFFSET ?3), 0)"},
    [AIF_SQL_OLDEST] = {"SELECT \"offset\" " ASKED,
                        " ORDER BY \"offset\" LIMIT ?3"},
    [AIF_SQL_SENDERS] = {"SELECT sender, count(*) " ASKED,
                         " GROUP BY sender ORDER BY sender LIMIT ?3"},
};

/* Everything is bound as bytes.  A prefix is not GLOB: it may have its
 * characters; an exact one is text, for an index that a user may make. */
static const aif_dialect DIALECT = {
    .exact = "%s = CAST(?%d AS TEXT)",
    .prefix = "substr(CAST(%1$s AS BLOB), 1, length(?%2$d)) = ?%2$d",
    .in = {" AND key IN ("},
    .in_end = ")",
    .one_of = "CAST(?%d AS TEXT)",
    .first = 4,
};

aif_err
aif_sqlite_fail(aif_sqlite *s, int rc, const char *what, aif_error *e)
{
    aif_err code = AIF_ESTORE;

    switch (rc & 0xff) { /* the rest of it says where */
    case SQLITE_NOMEM:
        code = AIF_ENOMEM;
        break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CONSTRAINT: /* the head is behind its events */
        code = AIF_ECORRUPT;
        break;
    default:
        break;
    }
    (void)aif_fail(e, code, "%s %s: %s (%d)", what, s->path,
                   sqlite3_errstr(rc), rc);
    e->busy = s->hurry && (rc & 0xff) == SQLITE_BUSY;
    return code;
}

void
aif_sqlite_shut(aif_sqlite *s)
{
    for (int i = 0; i < AIF_SQL_STMTS; i++) {
        (void)sqlite3_finalize(s->stmts[i]); /* its error was told already */
        s->stmts[i] = NULL;
    }
    (void)sqlite3_close(s->db);
    s->db = NULL;
    aif_forks_release(&s->file);
}

aif_err
aif_sqlite_run(aif_sqlite *s, aif_sqlite_stmt which, const char *what,
               aif_error *e)
{
    int rc = sqlite3_step(s->stmts[which]);

    (void)sqlite3_reset(s->stmts[which]); /* says rc again */
    return rc == SQLITE_DONE ? AIF_OK : aif_sqlite_fail(s, rc, what, e);
}

aif_err
aif_sqlite_number(aif_sqlite *s, sqlite3_stmt *q, const char *what,
                  uint64_t *out, aif_error *e)
{
    int rc = sqlite3_step(q);
    sqlite3_int64 v = rc == SQLITE_ROW ? sqlite3_column_int64(q, 0) : 0;

    (void)sqlite3_reset(q);
    if (rc == SQLITE_DONE || v < 0) {
        return aif_fail(e, AIF_ECORRUPT, "%s %s: no such row", what, s->path);
    }
    *out = (uint64_t)v;
    return rc == SQLITE_ROW ? AIF_OK : aif_sqlite_fail(s, rc, what, e);
}

/* What is no SQL to this database lacks a table or a column of ours. */
static aif_err
prepare(aif_sqlite *s, const char *sql, unsigned flags, sqlite3_stmt **q,
        aif_error *e)
{
    int rc = sqlite3_prepare_v3(s->db, sql, -1, flags, q, NULL);

    if (rc == SQLITE_ERROR) {
        return aif_fail(e, AIF_ECORRUPT, "%s is not a log: %s", s->path,
                        sqlite3_errmsg(s->db));
    }
    return rc == SQLITE_OK ? AIF_OK : aif_sqlite_fail(s, rc, "opening", e);
}

static aif_err
ask(aif_sqlite *s, const char *sql, uint64_t *out, aif_error *e)
{
    sqlite3_stmt *q;
    aif_err err = prepare(s, sql, 0, &q, e);

    if (err == AIF_OK) {
        err = aif_sqlite_number(s, q, "opening", out, e);
        (void)sqlite3_finalize(q);
    }
    return err;
}

static aif_err
exec(aif_sqlite *s, const char *sql, aif_error *e)
{
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);

    return rc == SQLITE_OK ? AIF_OK : aif_sqlite_fail(s, rc, "opening", e);
}

static int
lock_ms(const aif_sqlite *s)
{
    return s->hurry ? AIF_LOCK_SLICE_MS : AIF_LOCK_WAIT_MS;
}

/* Going over to WAL does not wait for another that does so now. */
static aif_err
enter_wal(aif_sqlite *s, aif_error *e)
{
    int rc;

    for (int waited = 0; waited <= lock_ms(s); waited += RETRY_MS) {
        rc =
            sqlite3_exec(s->db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
        if ((rc & 0xff) != SQLITE_BUSY) {
            break;
        }
        (void)sqlite3_sleep(RETRY_MS);
    }
    return rc == SQLITE_OK ? AIF_OK : aif_sqlite_fail(s, rc, "opening", e);
}

/* In a transaction, and looked at again there: two may open a new log. */
static aif_err
make_schema(aif_sqlite *s, aif_error *e)
{
    uint64_t exists;
    aif_err err = exec(s, "BEGIN IMMEDIATE", e);

    if (err == AIF_OK) {
        err = ask(s, EXISTS, &exists, e);
    }
    if (err == AIF_OK && exists == 0) {
        err = exec(s, SCHEMA, e);
    }
    return err != AIF_OK ? err : exec(s, "COMMIT", e);
}

static aif_err
convert(aif_sqlite *s, aif_error *e)
{
    uint64_t found;
    aif_err err = exec(s, "BEGIN IMMEDIATE", e);

    if (err == AIF_OK) {
        err = ask(s, VERSION, &found, e);
    }
    if (err == AIF_OK && found == 1) {
        err = exec(s, CONVERT, e);
    }
    AIF_POINT("convert.before_commit");
    return err != AIF_OK ? err : exec(s, "COMMIT", e);
}

static aif_err
check_version(aif_sqlite *s, aif_error *e)
{
    uint64_t found;
    aif_err err = ask(s, VERSION, &found, e);

    if (err == AIF_OK && found == 1) {
        err = convert(s, e);
        found = AIF_STORE_VERSION;
    }
    if (err == AIF_OK && found != AIF_STORE_VERSION) {
        err = aif_fail(e, AIF_ECORRUPT,
                       "%s is a log of version %llu, this is version %d: "
                       "use the aiflow_ext that wrote it, or another file",
                       s->path, (unsigned long long)found, AIF_STORE_VERSION);
    }
    return err;
}

static aif_err
check_schema(aif_sqlite *s, aif_error *e)
{
    uint64_t found;
    aif_err err = ask(s, EXISTS, &found, e);

    if (err == AIF_OK && found == 0) {
        err = make_schema(s, e);
    }
    return err != AIF_OK ? err : check_version(s, e);
}

static aif_err
prepare_all(aif_sqlite *s, aif_error *e)
{
    aif_err err = AIF_OK;

    for (int i = 0; err == AIF_OK && i < AIF_SQL_STMTS; i++) {
        char *sql =
            sqlite3_mprintf("%s%s", STATEMENTS[i][0], STATEMENTS[i][1]);

        err = sql == NULL ? aif_sqlite_fail(s, SQLITE_NOMEM, "opening", e)
                          : prepare(s, sql, SQLITE_PREPARE_PERSISTENT,
                                    &s->stmts[i], e);
        sqlite3_free(sql);
    }
    return err;
}

/* One with patterns, which are bound as well. */
static aif_err
compile(aif_sqlite *s, aif_sqlite_stmt which, const aif_query *query,
        sqlite3_stmt **q, aif_error *e)
{
    aif_where w;
    aif_err err = aif_where_init(&w, &DIALECT, STATEMENTS[which][0], query,
                                 STATEMENTS[which][1], e);

    if (err != AIF_OK) {
        return err;
    }
    err = prepare(s, aif_where_sql(&w), 0, q, e);
    for (size_t i = 0; err == AIF_OK && i < w.n; i++) {
        (void)sqlite3_bind_blob(*q, DIALECT.first + (int)i,
                                w.params[i].n == 0 ? "" : w.params[i].p,
                                (int)w.params[i].n, SQLITE_STATIC);
    }
    aif_where_fini(&w);
    return err;
}

aif_err
aif_sqlite_query(aif_sqlite *s, aif_sqlite_stmt which, const aif_query *query,
                 uint64_t third, sqlite3_stmt **q, aif_error *e)
{
    aif_err err = AIF_OK;

    *q = s->stmts[which];
    if (query->n > 0) {
        err = compile(s, which, query, q, e);
    }
    if (err == AIF_OK) {
        (void)sqlite3_bind_int64(*q, 1, (sqlite3_int64)query->after);
        (void)sqlite3_bind_int64(*q, 2, (sqlite3_int64)query->upto);
        (void)sqlite3_bind_int64(
            *q, 3, third > INT64_MAX ? INT64_MAX : (sqlite3_int64)third);
    }
    return err;
}

void
aif_sqlite_done(aif_sqlite *s, aif_sqlite_stmt which, sqlite3_stmt *q)
{
    (void)sqlite3_reset(q);
    if (q != s->stmts[which]) {
        (void)sqlite3_finalize(q);
    }
}

/* Needs the file to be there. On failure s->db is NULL. */
static aif_err
open_db(aif_sqlite *s, aif_error *e)
{
    const int flags =
        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    aif_err err = aif_forks_claim(&s->file, s->path, e);
    int rc;

    if (err != AIF_OK) {
        return err;
    }
    aif_sqlite_fork_safely();
    rc = sqlite3_open_v2(s->path, &s->db, flags, NULL);
    err = rc == SQLITE_OK ? AIF_OK : aif_sqlite_fail(s, rc, "opening", e);
    if (err == AIF_OK) {
        (void)sqlite3_busy_timeout(s->db, lock_ms(s));
        err = enter_wal(s, e);
    }
    if (err == AIF_OK) {
        err = exec(s, SETTINGS, e);
    }
    if (err == AIF_OK) {
        err = check_schema(s, e);
    }
    if (err == AIF_OK) {
        err = prepare_all(s, e);
    }
    if (err != AIF_OK) {
        aif_sqlite_shut(s);
    }
    return err;
}

/* mknod, not open: it gives the mode at once, and to close a descriptor would
 * drop the locks that this process has on the file through another handle.
 * SQLite gives -wal and -shm the mode of the file. */
static aif_err
create_file(const char *path, aif_error *e)
{
    if (mknod(path, S_IFREG | S_IRUSR | S_IWUSR, 0) != 0 && errno != EEXIST) {
        return aif_fail(e, AIF_ESTORE, "creating %s: %s", path,
                        strerror(errno));
    }
    return AIF_OK;
}

aif_err
aif_sqlite_open(const char *uri, void **store, aif_error *e)
{
    const char *path = uri + sizeof AIF_SQLITE_SCHEME - 1;
    aif_sqlite *s;
    aif_err err;

    *store = NULL;
    if (path[0] == '\0' || path[0] == ':') {
        return aif_fail(e, AIF_EINVAL,
                        "'%s' names no file: write sqlite:PATH, or mem: for "
                        "a log in memory",
                        uri);
    }
    s = aif_zalloc(sizeof *s + strlen(path) + 1);
    if (s == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening %s", path);
    }
    memcpy(s->path, path, strlen(path) + 1);
    err = create_file(path, e);
    if (err == AIF_OK) {
        err = open_db(s, e);
    }
    if (err != AIF_OK) {
        aif_free(s);
        return err;
    }
    *store = s;
    return AIF_OK;
}

void
aif_sqlite_close(void *store)
{
    aif_sqlite_shut(store);
    aif_free(store);
}

/* SQLite itself would go on writing to a file that nobody can open any more,
 * and say that all is well. */
aif_err
aif_sqlite_ready(aif_sqlite *s, aif_error *e)
{
    int moved = 0;

    if (s->db == NULL) {
        return open_db(s, e);
    }
    (void)sqlite3_file_control(s->db, NULL, SQLITE_FCNTL_HAS_MOVED, &moved);
    if (moved) {
        aif_sqlite_shut(s);
        return aif_fail(e, AIF_ESTORE, "%s was moved or deleted", s->path);
    }
    return AIF_OK;
}
