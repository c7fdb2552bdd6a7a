/* sqlite.c - a file of SQLite: durable (WAL, synchronous=FULL: one fdatasync
 * a commit), one writer at a time.
 *
 * A full disk, an I/O error or 5 s of somebody else's lock is ESTORE: undo
 * rolls the transaction back, and the file stays open.
 */
#define _XOPEN_SOURCE 700 /* mknod */
#include "db/sqlite.h"

#include "base/forks.h"
#include "base/mem.h"

#include <errno.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/stat.h>

#define SCHEME "sqlite:"
#define RETRY_MS 20

/* Measured with bench_log, 1,000 events at a time, on ext4: wal_autocheckpoint
 * 4000 or pages of 8192 are within the noise.  The WAL is written over and
 * over, 90 us a commit where growing it costs 370: it should be full soon. */
static const char SETTINGS[] = "PRAGMA synchronous = FULL;"
                               "PRAGMA cache_size = -32768;"
                               "PRAGMA wal_autocheckpoint = 1000;";

/* Kept behind the places of others. */
enum { BEGIN = AIF_DB_PLACES, COMMIT, PLACES };

typedef struct {
    sqlite3 *db; /* NULL: lost, to be opened again */
    aif_owned file;
    bool hurry;
    sqlite3_stmt *kept[PLACES];
    sqlite3_stmt *asked; /* whose rows are being taken */
    bool once;           /* asked is not kept */
    const char *what;    /* it is for */
    char path[];
} sqlite;

/* SQLite's rc as an error of ours. */
static aif_err
sqlite_fail(const sqlite *s, int rc, const char *what, aif_error *e)
{
    aif_err code = AIF_ESTORE;

    switch (rc & 0xff) { /* the rest of it says where */
    case SQLITE_NOMEM:
        code = AIF_ENOMEM;
        break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CONSTRAINT: /* rows that contradict each other */
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

static void
sqlite_drop(void *db)
{
    sqlite *s = db;

    for (int i = 0; i < PLACES; i++) {
        (void)sqlite3_finalize(s->kept[i]); /* its error was told already */
        s->kept[i] = NULL;
    }
    aif_sqlite_close(s->db, &s->file);
    s->db = NULL;
}

/* --- statements --------------------------------------------------------- */

/* What is no SQL to this database lacks a table or a column. */
static aif_err
statement_prepare(sqlite *s, const aif_statement *st, const char *what,
                  sqlite3_stmt **out, aif_error *e)
{
    const bool keep = st->place != AIF_DB_ONCE;
    int rc = SQLITE_OK;

    *out = keep ? s->kept[st->place] : NULL;
    if (*out == NULL) {
        rc = sqlite3_prepare_v3(s->db, st->sql, -1,
                                keep ? SQLITE_PREPARE_PERSISTENT : 0, out,
                                NULL);
    }
    if (rc == SQLITE_ERROR) {
        return aif_fail(e, AIF_ECORRUPT, "%s %s: %s", what, s->path,
                        sqlite3_errmsg(s->db));
    }
    if (rc == SQLITE_OK && keep) {
        s->kept[st->place] = *out;
    }
    return rc == SQLITE_OK ? AIF_OK : sqlite_fail(s, rc, what, e);
}

/* It fails only for a number or a size out of range. */
static void
statement_bind(sqlite3_stmt *q, const aif_statement *st)
{
    for (int i = 0; i < st->n_numbers; i++) {
        (void)sqlite3_bind_int64(q, 1 + i, (sqlite3_int64)st->numbers[i]);
    }
    for (int i = 0; i < st->n_texts; i++) {
        const aif_str t = st->texts[i];

        (void)sqlite3_bind_text(q, 1 + st->n_numbers + i,
                                t.n == 0 ? "" : t.p, /* NULL would be SQL's */
                                (int)t.n, SQLITE_STATIC);
    }
}

static aif_err
sqlite_ask(void *db, const aif_statement *st, const char *what, aif_error *e)
{
    sqlite *s = db;
    aif_err err = statement_prepare(s, st, what, &s->asked, e);

    if (err == AIF_OK) {
        s->once = st->place == AIF_DB_ONCE;
        s->what = what;
        statement_bind(s->asked, st);
    }
    return err;
}

static aif_err
sqlite_next(void *db, bool *there, aif_error *e)
{
    sqlite *s = db;
    int rc = sqlite3_step(s->asked);

    *there = rc == SQLITE_ROW;
    return rc == SQLITE_ROW || rc == SQLITE_DONE
               ? AIF_OK
               : sqlite_fail(s, rc, s->what, e);
}

static uint64_t
sqlite_number(void *db, int column)
{
    return (uint64_t)sqlite3_column_int64(((sqlite *)db)->asked, column);
}

static aif_str
sqlite_text(void *db, int column)
{
    sqlite3_stmt *q = ((sqlite *)db)->asked;
    const char *p = sqlite3_column_blob(q, column); /* as text: allocates */

    return (aif_str){p == NULL ? "" : p,
                     (size_t)sqlite3_column_bytes(q, column)};
}

/* Ends the snapshot. */
static void
sqlite_done(void *db)
{
    sqlite *s = db;

    (void)sqlite3_reset(s->asked);
    if (s->once) {
        (void)sqlite3_finalize(s->asked);
    }
    s->asked = NULL;
}

static aif_err
sqlite_change(void *db, const aif_statement *st, const char *what,
              uint64_t *changed, aif_error *e)
{
    sqlite *s = db;
    bool there;
    aif_err err = sqlite_ask(s, st, what, e);

    if (err != AIF_OK) {
        return err;
    }
    err = sqlite_next(s, &there, e);
    sqlite_done(s);
    if (err == AIF_OK && changed != NULL) {
        *changed = (uint64_t)sqlite3_changes(s->db);
    }
    return err;
}

/* --- opening ------------------------------------------------------------ */

static int
lock_ms(const sqlite *s)
{
    return s->hurry ? AIF_LOCK_SLICE_MS : AIF_LOCK_WAIT_MS;
}

/* Going over to WAL does not wait for another that does so now. */
static int
wal_enter(sqlite *s)
{
    int rc = SQLITE_BUSY;

    for (int waited = 0; waited <= lock_ms(s); waited += RETRY_MS) {
        rc =
            sqlite3_exec(s->db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
        if ((rc & 0xff) != SQLITE_BUSY) {
            break;
        }
        (void)sqlite3_sleep(RETRY_MS);
    }
    return rc;
}

/* Texts go in and come out as the bytes that they are, which is UTF-8 only in
 * a file that keeps them so. */
static aif_err
check_encoding(sqlite *s, aif_error *e)
{
    const aif_statement st = {.sql = "PRAGMA encoding", .place = AIF_DB_ONCE};
    bool there;
    aif_err err = sqlite_ask(s, &st, "opening", e);

    if (err != AIF_OK) {
        return err;
    }
    err = sqlite_next(s, &there, e);
    if (err == AIF_OK && !aif_str_eq(sqlite_text(s, 0), AIF_STR("UTF-8"))) {
        err =
            aif_fail(e, AIF_EINVAL,
                     "%s keeps its texts in UTF-16: a log needs a file whose "
                     "PRAGMA encoding is UTF-8",
                     s->path);
    }
    sqlite_done(s);
    return err;
}

/* Needs the file to be there. */
static aif_err
sqlite_connect(sqlite *s, aif_error *e)
{
    const int flags =
        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    int rc;
    aif_err err = aif_sqlite_open(s->path, flags, &s->db, &s->file, &rc, e);

    if (err != AIF_OK) {
        return err;
    }
    if (rc == SQLITE_OK) {
        (void)sqlite3_busy_timeout(s->db, lock_ms(s));
        rc = wal_enter(s);
    }
    if (rc == SQLITE_OK) {
        rc = sqlite3_exec(s->db, SETTINGS, NULL, NULL, NULL);
    }
    err = rc == SQLITE_OK ? check_encoding(s, e)
                          : sqlite_fail(s, rc, "opening", e);
    if (err != AIF_OK) {
        sqlite_drop(s);
    }
    return err;
}

/* mknod, not open: it gives the mode at once, and to close a descriptor would
 * drop the locks that this process has on the file through another handle.
 * SQLite gives -wal and -shm the mode of the file. */
static aif_err
file_create(const char *path, aif_error *e)
{
    if (mknod(path, S_IFREG | S_IRUSR | S_IWUSR, 0) != 0 && errno != EEXIST) {
        return aif_fail(e, AIF_ESTORE, "creating %s: %s", path,
                        strerror(errno));
    }
    return AIF_OK;
}

static aif_err
sqlite_open(const char *uri, void **db, aif_error *e)
{
    const char *path = uri + sizeof SCHEME - 1;
    sqlite *s;
    aif_err err;

    *db = NULL;
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
    err = file_create(path, e);
    if (err != AIF_OK) {
        aif_free(s);
        return err;
    }
    *db = s;
    return AIF_OK;
}

static void
sqlite_close(void *db)
{
    sqlite_drop(db);
    aif_free(db);
}

/* SQLite itself would go on writing to a file that nobody can open any more,
 * and say that all is well. */
static aif_err
sqlite_ready(void *db, bool *fresh, aif_error *e)
{
    sqlite *s = db;
    int moved = 0;

    *fresh = s->db == NULL;
    if (*fresh) {
        return sqlite_connect(s, e);
    }
    (void)sqlite3_file_control(s->db, NULL, SQLITE_FCNTL_HAS_MOVED, &moved);
    if (moved) {
        sqlite_drop(s);
        return aif_fail(e, AIF_ESTORE, "%s was moved or deleted", s->path);
    }
    return AIF_OK;
}

/* --- transactions ------------------------------------------------------- */

/* With the lock that writers need. */
static aif_err
sqlite_begin(void *db, const char *what, aif_error *e)
{
    const aif_statement st = {.sql = "BEGIN IMMEDIATE", .place = BEGIN};

    return sqlite_change(db, &st, what, NULL, e);
}

static aif_err
sqlite_commit(void *db, const char *what, aif_error *e)
{
    const aif_statement st = {.sql = "COMMIT", .place = COMMIT};

    return sqlite_change(db, &st, what, NULL, e);
}

static aif_err
sqlite_hurry(void *db, aif_error *e)
{
    sqlite *s = db;

    (void)e;
    s->hurry = true;
    if (s->db != NULL) {
        (void)sqlite3_busy_timeout(s->db, lock_ms(s));
    }
    return AIF_OK;
}

/* Some errors roll back by themselves, others leave it to us. */
static void
sqlite_undo(void *db)
{
    sqlite *s = db;

    if (s->db != NULL && sqlite3_get_autocommit(s->db) == 0 &&
        sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK) {
        sqlite_drop(s);
    }
}

const aif_db_ops aif_sqlite = {
    .open = sqlite_open,
    .close = sqlite_close,
    .ready = sqlite_ready,
    .hurry = sqlite_hurry,
    .begin = sqlite_begin,
    .commit = sqlite_commit,
    .undo = sqlite_undo,
    .ask = sqlite_ask,
    .next = sqlite_next,
    .number = sqlite_number,
    .text = sqlite_text,
    .done = sqlite_done,
    .change = sqlite_change,
    .drop = sqlite_drop,
};
