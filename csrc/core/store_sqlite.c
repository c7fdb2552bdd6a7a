/* store_sqlite.c - the log in an SQLite file of its own.
 *
 * append: BEGIN IMMEDIATE (one writer at a time), read the head, insert each
 *         event at the next offset unless its identity is there already,
 *         move the head, COMMIT (WAL, synchronous=FULL: one fdatasync).
 * read:   one statement, which is one snapshot.
 *
 * A full disk, an I/O error or 5 s of somebody else's lock is ESTORE: the
 * transaction is rolled back and the log lives on.  A file that was moved
 * away or deleted is opened again, once it is back; never made anew.
 */
#define _XOPEN_SOURCE 700 /* mknod */
#include "store.h"

#include "mem.h"
#include "point.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>

#define SCHEME "sqlite:"
#define BUSY_MS 5000
#define RETRY_MS 20
#define NUMBER(n) TEXT(n)
#define TEXT(n) #n

static const char SETTINGS[] = "PRAGMA synchronous = FULL;"
                               "PRAGMA cache_size = -32768;"
                               "PRAGMA wal_autocheckpoint = 1000;";

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
    "CREATE INDEX aiflow_event_key ON aiflow_event (key);"
    "CREATE TABLE aiflow_log_head ("
    "  id INTEGER PRIMARY KEY CHECK (id = 1),"
    "  version INTEGER NOT NULL,"
    "  \"offset\" INTEGER NOT NULL);"
    "INSERT INTO aiflow_log_head VALUES (1, " NUMBER(AIF_STORE_VERSION) ", 0)";

static const char EXISTS[] =
    "SELECT count(*) FROM sqlite_schema WHERE name = 'aiflow_log_head'";
static const char VERSION[] =
    "SELECT version FROM aiflow_log_head WHERE id = 1";

#define COLUMNS                                                               \
    "\"offset\", create_time, namespace, key, value, type, sender, context,"  \
    " producer, sequence"
/* ?1: after, ?2: max; a pattern adds its own from ?3 on. */
#define READ_FROM "SELECT " COLUMNS " FROM aiflow_event WHERE \"offset\" > ?1"
#define READ_TO " ORDER BY \"offset\" LIMIT ?2"
#define COUNT_FROM "SELECT count(*) FROM aiflow_event WHERE \"offset\" > ?1"

enum {
    BEGIN,
    COMMIT,
    ROLLBACK,
    HEAD,
    BUMP,
    INSERT,
    KNOWN,
    READ,
    COUNT,
    STMTS
};

static const char *const STATEMENTS[STMTS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [HEAD] = "SELECT \"offset\" FROM aiflow_log_head WHERE id = 1",
    [BUMP] = "UPDATE aiflow_log_head SET \"offset\" = \"offset\" + ?1"
             " WHERE id = 1",
    [INSERT] = "INSERT INTO aiflow_event (" COLUMNS ")"
               " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
               " ON CONFLICT (producer, sequence) DO NOTHING",
    [KNOWN] = "SELECT \"offset\" FROM aiflow_event"
              " WHERE producer = ?1 AND sequence = ?2",
    [READ] = READ_FROM READ_TO,
    [COUNT] = COUNT_FROM,
};

typedef struct {
    sqlite3 *db; /* NULL: lost, to be opened again */
    sqlite3_stmt *stmts[STMTS];
    char path[];
} sqlite_store;

static aif_err
fail(sqlite_store *s, int rc, const char *what, aif_error *e)
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
    return aif_fail(e, code, "%s %s: %s (%d)", what, s->path,
                    sqlite3_errstr(rc), rc);
}

static void
close_db(sqlite_store *s)
{
    for (int i = 0; i < STMTS; i++) {
        (void)sqlite3_finalize(s->stmts[i]); /* its error was told already */
        s->stmts[i] = NULL;
    }
    (void)sqlite3_close(s->db);
    s->db = NULL;
}

/* Run a statement that has no rows. */
static aif_err
run(sqlite_store *s, int which, const char *what, aif_error *e)
{
    int rc = sqlite3_step(s->stmts[which]);

    (void)sqlite3_reset(s->stmts[which]); /* says rc again */
    return rc == SQLITE_DONE ? AIF_OK : fail(s, rc, what, e);
}

/* Step a query of one row and one number, and make it ready again. */
static aif_err
number_of(sqlite_store *s, sqlite3_stmt *q, const char *what, uint64_t *out,
          aif_error *e)
{
    int rc = sqlite3_step(q);
    sqlite3_int64 v = rc == SQLITE_ROW ? sqlite3_column_int64(q, 0) : 0;

    (void)sqlite3_reset(q);
    if (rc == SQLITE_DONE || v < 0) {
        return aif_fail(e, AIF_ECORRUPT, "%s %s: no such row", what, s->path);
    }
    *out = (uint64_t)v;
    return rc == SQLITE_ROW ? AIF_OK : fail(s, rc, what, e);
}

static aif_err
ask(sqlite_store *s, const char *sql, uint64_t *out, aif_error *e)
{
    sqlite3_stmt *q;
    aif_err err;
    int rc = sqlite3_prepare_v2(s->db, sql, -1, &q, NULL);

    if (rc != SQLITE_OK) {
        return fail(s, rc, "opening", e);
    }
    err = number_of(s, q, "opening", out, e);
    (void)sqlite3_finalize(q);
    return err;
}

static aif_err
exec(sqlite_store *s, const char *sql, aif_error *e)
{
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);

    return rc == SQLITE_OK ? AIF_OK : fail(s, rc, "opening", e);
}

/* Going over to WAL does not wait for another that does so now. */
static aif_err
enter_wal(sqlite_store *s, aif_error *e)
{
    int rc;

    for (int waited = 0; waited <= BUSY_MS; waited += RETRY_MS) {
        rc =
            sqlite3_exec(s->db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
        if ((rc & 0xff) != SQLITE_BUSY) {
            break;
        }
        (void)sqlite3_sleep(RETRY_MS);
    }
    return rc == SQLITE_OK ? AIF_OK : fail(s, rc, "opening", e);
}

/* In a transaction, and looked at again there: two may open a new log. */
static aif_err
make_schema(sqlite_store *s, aif_error *e)
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
check_schema(sqlite_store *s, aif_error *e)
{
    uint64_t found;
    aif_err err = ask(s, EXISTS, &found, e);

    if (err == AIF_OK && found == 0) {
        err = make_schema(s, e);
    }
    if (err == AIF_OK) {
        err = ask(s, VERSION, &found, e);
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
prepare(sqlite_store *s, aif_error *e)
{
    for (int i = 0; i < STMTS; i++) {
        int rc =
            sqlite3_prepare_v3(s->db, STATEMENTS[i], -1,
                               SQLITE_PREPARE_PERSISTENT, &s->stmts[i], NULL);
        if (rc == SQLITE_ERROR) { /* a table or column is missing */
            return aif_fail(e, AIF_ECORRUPT, "%s: %s", s->path,
                            sqlite3_errmsg(s->db));
        }
        if (rc != SQLITE_OK) {
            return fail(s, rc, "opening", e);
        }
    }
    return AIF_OK;
}

/* The WAL file is kept on close: a child of fork() that has opened the log
 * anew may be using it, and SQLite there trusts locks that fork() dropped. */
static void
keep_wal(sqlite_store *s)
{
    int on = 1;

    (void)sqlite3_file_control(s->db, NULL, SQLITE_FCNTL_PERSIST_WAL, &on);
}

/* Needs the file to be there. On failure s->db is NULL. */
static aif_err
open_db(sqlite_store *s, aif_error *e)
{
    const int flags =
        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    int rc = sqlite3_open_v2(s->path, &s->db, flags, NULL);
    aif_err err = rc == SQLITE_OK ? AIF_OK : fail(s, rc, "opening", e);

    if (err == AIF_OK) {
        (void)sqlite3_busy_timeout(s->db, BUSY_MS);
        keep_wal(s);
        err = enter_wal(s, e);
    }
    if (err == AIF_OK) {
        err = exec(s, SETTINGS, e);
    }
    if (err == AIF_OK) {
        err = check_schema(s, e);
    }
    if (err == AIF_OK) {
        err = prepare(s, e);
    }
    if (err != AIF_OK) {
        close_db(s);
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

static aif_err
sqlite_open(const char *uri, void **store, aif_error *e)
{
    const char *path = uri + sizeof SCHEME - 1;
    sqlite_store *s;
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

static void
sqlite_close(void *store)
{
    close_db(store);
    aif_free(store);
}

/* Every call begins here.  SQLite itself would go on writing to a file that
 * nobody can open any more. */
static aif_err
ready(sqlite_store *s, aif_error *e)
{
    int moved = 0;

    if (s->db == NULL) {
        return open_db(s, e);
    }
    (void)sqlite3_file_control(s->db, NULL, SQLITE_FCNTL_HAS_MOVED, &moved);
    if (moved) {
        close_db(s);
        return aif_fail(e, AIF_ESTORE, "%s was moved or deleted", s->path);
    }
    return AIF_OK;
}

static void
bind_str(sqlite3_stmt *q, int i, aif_str v)
{
    /* NULL would be SQL's; it fails only for an i or a size out of range */
    (void)sqlite3_bind_text(q, i, v.n == 0 ? "" : v.p, (int)v.n,
                            SQLITE_STATIC);
}

static void
bind_event(sqlite3_stmt *q, const aif_event *ev, uint64_t offset)
{
    (void)sqlite3_bind_int64(q, 1, (sqlite3_int64)offset);
    (void)sqlite3_bind_int64(q, 2, ev->create_time);
    bind_str(q, 3, ev->ns);
    bind_str(q, 4, ev->key);
    bind_str(q, 5, ev->value);
    bind_str(q, 6, ev->type);
    bind_str(q, 7, ev->sender);
    bind_str(q, 8, ev->context);
    bind_str(q, 9, ev->producer);
    (void)sqlite3_bind_int64(q, 10, (sqlite3_int64)ev->sequence);
}

static aif_err
find_known(sqlite_store *s, const aif_event *ev, uint64_t *offset,
           aif_error *e)
{
    bind_str(s->stmts[KNOWN], 1, ev->producer);
    (void)sqlite3_bind_int64(s->stmts[KNOWN], 2, (sqlite3_int64)ev->sequence);
    return number_of(s, s->stmts[KNOWN], "appending to", offset, e);
}

/* Insert them after *head, which moves on. */
static aif_err
insert(sqlite_store *s, const aif_event *events, size_t n, uint64_t *head,
       uint64_t *offsets, aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        bind_event(s->stmts[INSERT], &events[i], *head + 1);
        err = run(s, INSERT, "appending to", e);
        if (err != AIF_OK) {
            return err;
        }
        if (sqlite3_changes(s->db) == 1) {
            offsets[i] = ++*head;
        } else {
            err = find_known(s, &events[i], &offsets[i], e);
        }
    }
    return err;
}

static aif_err
append_locked(sqlite_store *s, const aif_event *events, size_t n,
              uint64_t *offsets, aif_error *e)
{
    uint64_t before;
    uint64_t head;
    aif_err err =
        number_of(s, s->stmts[HEAD], "reading the head of", &before, e);

    if (err != AIF_OK) {
        return err;
    }
    head = before;
    err = insert(s, events, n, &head, offsets, e);
    if (err == AIF_OK && head > before) {
        (void)sqlite3_bind_int64(s->stmts[BUMP], 1,
                                 (sqlite3_int64)(head - before));
        err = run(s, BUMP, "appending to", e);
    }
    if (err != AIF_OK) {
        return err;
    }
    AIF_POINT("append.before_commit");
    return run(s, COMMIT, "committing to", e);
}

/* Some errors roll back by themselves, others leave it to us. */
static void
roll_back(sqlite_store *s)
{
    aif_error ignored;

    if (sqlite3_get_autocommit(s->db) == 0 &&
        run(s, ROLLBACK, "rolling back", &ignored) != AIF_OK) {
        close_db(s);
    }
}

static aif_err
sqlite_append(void *store, const aif_event *events, size_t n,
              uint64_t *offsets, aif_error *e)
{
    sqlite_store *s = store;
    aif_err err = ready(s, e);

    AIF_POINT("append.begin");
    if (err == AIF_OK) {
        err = run(s, BEGIN, "locking", e);
    }
    if (err != AIF_OK) {
        return err;
    }
    err = append_locked(s, events, n, offsets, e);
    if (err != AIF_OK) {
        roll_back(s);
        return err;
    }
    AIF_POINT("append.after_commit");
    return AIF_OK;
}

#define SQL_CAP 768 /* the longest is under 600 */

/* A pattern as SQL: " AND key = ?4", or its first bytes (a prefix may hold
 * GLOB's characters).  Nothing where any text will do. */
static void
add_field(char *sql, const char *column, aif_str field, int number)
{
    size_t n = strlen(sql);

    if (aif_pattern_exact(field)) {
        (void)snprintf(sql + n, SQL_CAP - n, " AND %s = ?%d", column, number);
    } else if (field.n > 1) {
        (void)snprintf(sql + n, SQL_CAP - n,
                       " AND substr(CAST(%s AS BLOB), 1, length(?%d)) = ?%d",
                       column, number, number);
    }
}

static void
bind_field(sqlite3_stmt *q, aif_str field, int number)
{
    if (aif_pattern_exact(field)) {
        bind_str(q, number, field);
    } else if (field.n > 1) {
        (void)sqlite3_bind_blob(q, number, field.p, (int)field.n - 1,
                                SQLITE_STATIC);
    }
}

static aif_err
prepare_pattern(sqlite_store *s, const char *from, const char *to,
                const aif_pattern *p, sqlite3_stmt **q, aif_error *e)
{
    char sql[SQL_CAP];
    int rc;

    (void)snprintf(sql, sizeof sql, "%s", from);
    add_field(sql, "namespace", p->ns, 3);
    add_field(sql, "key", p->key, 4);
    add_field(sql, "type", p->type, 5);
    add_field(sql, "sender", p->sender, 6);
    strncat(sql, to, sizeof sql - strlen(sql) - 1);
    rc = sqlite3_prepare_v2(s->db, sql, -1, q, NULL);
    if (rc != SQLITE_OK) {
        return fail(s, rc, "querying", e);
    }
    bind_field(*q, p->ns, 3);
    bind_field(*q, p->key, 4);
    bind_field(*q, p->type, 5);
    bind_field(*q, p->sender, 6);
    return AIF_OK;
}

static aif_str
text(sqlite3_stmt *q, int column)
{
    aif_str v = {(const char *)sqlite3_column_text(q, column), 0};

    v.n = (size_t)sqlite3_column_bytes(q, column);
    return v;
}

static aif_event
row(sqlite3_stmt *q)
{
    return (aif_event){
        .offset = (uint64_t)sqlite3_column_int64(q, 0),
        .create_time = sqlite3_column_int64(q, 1),
        .ns = text(q, 2),
        .key = text(q, 3),
        .value = text(q, 4),
        .type = text(q, 5),
        .sender = text(q, 6),
        .context = text(q, 7),
        .producer = text(q, 8),
        .sequence = (uint64_t)sqlite3_column_int64(q, 9),
    };
}

static aif_err
read_rows(sqlite_store *s, sqlite3_stmt *q, aif_batch *out, aif_error *e)
{
    const size_t bytes = out->bytes;
    aif_event ev;
    aif_err err;
    int rc = SQLITE_ROW;

    while (out->bytes - bytes < AIF_READ_BYTES) {
        rc = sqlite3_step(q);
        if (rc != SQLITE_ROW) {
            break;
        }
        ev = row(q);
        if (sqlite3_errcode(s->db) == SQLITE_NOMEM) { /* a text is missing */
            return fail(s, SQLITE_NOMEM, "reading", e);
        }
        err = aif_batch_add(out, &ev, e);
        if (err != AIF_OK) {
            return err;
        }
    }
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? AIF_OK
                                                 : fail(s, rc, "reading", e);
}

static aif_err
sqlite_read(void *store, const aif_pattern *p, uint64_t after, size_t max,
            aif_batch *out, aif_error *e)
{
    sqlite_store *s = store;
    sqlite3_stmt *q = NULL;
    aif_err err = ready(s, e);

    if (err == AIF_OK && p != NULL) {
        err = prepare_pattern(s, READ_FROM, READ_TO, p, &q, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    q = q == NULL ? s->stmts[READ] : q;
    (void)sqlite3_bind_int64(q, 1, (sqlite3_int64)after);
    (void)sqlite3_bind_int64(q, 2,
                             max > INT64_MAX ? INT64_MAX : (sqlite3_int64)max);
    err = read_rows(s, q, out, e);
    (void)sqlite3_reset(q); /* ends the snapshot */
    if (q != s->stmts[READ]) {
        (void)sqlite3_finalize(q);
    }
    return err;
}

static aif_err
sqlite_count(void *store, const aif_pattern *p, uint64_t after, uint64_t *n,
             aif_error *e)
{
    sqlite_store *s = store;
    sqlite3_stmt *q = NULL;
    aif_err err = ready(s, e);

    if (err == AIF_OK && p != NULL) {
        err = prepare_pattern(s, COUNT_FROM, "", p, &q, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    q = q == NULL ? s->stmts[COUNT] : q;
    (void)sqlite3_bind_int64(q, 1, (sqlite3_int64)after);
    err = number_of(s, q, "counting", n, e);
    if (q != s->stmts[COUNT]) {
        (void)sqlite3_finalize(q);
    }
    return err;
}

static aif_err
sqlite_head(void *store, uint64_t *offset, aif_error *e)
{
    sqlite_store *s = store;
    aif_err err = ready(s, e);

    return err != AIF_OK ? err
                         : number_of(s, s->stmts[HEAD], "reading the head of",
                                     offset, e);
}

const aif_store_ops aif_store_sqlite = {
    .scheme = SCHEME,
    .open = sqlite_open,
    .close = sqlite_close,
    .append = sqlite_append,
    .read = sqlite_read,
    .count = sqlite_count,
    .head = sqlite_head,
};
