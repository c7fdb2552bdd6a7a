/* sqlite.c - a file of SQLite: durable (WAL, synchronous=FULL: one fdatasync
 * a commit), one writer at a time.
 *
 * A full disk, an I/O error or 5 s of somebody else's lock is ESTORE: undo
 * rolls the transaction back, and the file stays open.
 */
#define _GNU_SOURCE /* mknod, statx */
#include "db/sqlite.h"

#include "base/clock.h"
#include "base/forks.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define SCHEME "sqlite:"
#define RETRY_MS 20

/* Kept behind the places of others. */
enum { BEGIN = AIF_DB_PLACES, COMMIT, PLACES };

/* What SQLite has open. */
enum { MAIN, WAL, SHM, FILES };
#define PATH_BYTES 1024 /* SQLite takes 512 */

typedef struct {
    sqlite3 *db; /* NULL: lost, to be opened again */
    struct stat seen[FILES];
    struct stat torn; /* lost its -wal or -shm: it is not opened again */
    aif_owned file;
    bool hurry;
    bool stale; /* a column is missing: its tables are to be looked at again */
    const aif_db_needs *needs;
    sqlite3_stmt *kept[PLACES];
    sqlite3_stmt *asked; /* whose rows are being taken */
    bool once;           /* asked is not kept */
    const char *what;    /* it is for */
    char path[];
} sqlite;

/* SQLite's rc as an error of ours. */
static aif_err
sqlite_fail(sqlite *s, int rc, const char *what, aif_error *e)
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
    case SQLITE_ERROR: /* what is no SQL to it lacks a table or a column */
        s->stale |= strncmp(sqlite3_errmsg(s->db), "no such column", 14) == 0;
        return aif_fail(e, AIF_ECORRUPT, "%s %s: %s", what, s->path,
                        sqlite3_errmsg(s->db));
    default:
        break;
    }
    (void)aif_fail(e, code, "%s %s: %s (%d)", what, s->path,
                   sqlite3_errstr(rc), rc);
    e->busy = s->hurry && (rc & 0xff) == SQLITE_BUSY;
    return code;
}

/* --- its files ---------------------------------------------------------- */

/* What is at the paths of the three now; all zero where there is nothing.
 *
 * Not by stat(): it asks for the time of the last change, and a Linux that
 * keeps fine-grained times (6.13) then writes the inode of the -wal anew with
 * each append.  That cost 60 us an event, a fifth of a publish. */
static void
files_look(const sqlite *s, bool sizes, struct stat found[static FILES])
{
    static const char *const ends[FILES] = {"", "-wal", "-shm"};
    const char *name = sqlite3_db_filename(s->db, "main");
    char path[PATH_BYTES];

    for (int i = 0; i < FILES; i++) {
        const unsigned want = STATX_INO | (sizes ? STATX_SIZE : 0) |
                              (i == MAIN ? STATX_MTIME : 0);
        struct statx now;

        found[i] = (struct stat){0};
        (void)snprintf(path, sizeof path, "%s%s", name, ends[i]);
        if (statx(AT_FDCWD, path, 0, want, &now) == 0) {
            found[i].st_ino = now.stx_ino;
            found[i].st_dev = makedev(now.stx_dev_major, now.stx_dev_minor);
            found[i].st_size = (off_t)now.stx_size;
            found[i].st_mtim.tv_sec = now.stx_mtime.tv_sec;
            found[i].st_mtim.tv_nsec = now.stx_mtime.tv_nsec;
        }
    }
}

static bool
file_is(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev;
}

/* Does this process have it open?  Where there is no /proc: maybe. */
static bool
file_is_open(const struct stat *file)
{
    DIR *fds = opendir("/proc/self/fd");
    bool is_open = fds == NULL;
    struct dirent *entry;
    struct stat one;

    while (!is_open && (entry = readdir(fds)) != NULL) {
        is_open = fstatat(dirfd(fds), entry->d_name, &one, 0) == 0 &&
                  file_is(&one, file);
    }
    if (fds != NULL) {
        (void)closedir(fds);
    }
    return is_open;
}

/* SQLite puts the -wal into the file when the last one closes it, and deletes
 * what is at the paths of -wal and -shm.  That may not happen after another
 * process found them deleted, made new ones, and wrote to them or, by now, to
 * the file. */
static bool
files_may_merge(const sqlite *s)
{
    const struct timespec *was = &s->seen[MAIN].st_mtim;
    struct stat now[FILES];
    bool ours = true;

    files_look(s, true, now);
    for (int i = WAL; i < FILES; i++) {
        if (!file_is(&now[i], &s->seen[i])) {
            ours = false;
            if (now[i].st_size != 0) {
                return false;
            }
        }
    }
    return ours || (now[MAIN].st_mtim.tv_sec == was->tv_sec &&
                    now[MAIN].st_mtim.tv_nsec == was->tv_nsec);
}

static void
sqlite_drop(void *db)
{
    sqlite *s = db;

    if (s->seen[MAIN].st_ino != 0 && !files_may_merge(s)) {
        (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1,
                                NULL);
    }
    memset(s->seen, 0, sizeof s->seen);
    for (int i = 0; i < PLACES; i++) {
        (void)sqlite3_finalize(s->kept[i]); /* its error was told already */
        s->kept[i] = NULL;
    }
    aif_sqlite_close(s->db, &s->file);
    s->db = NULL;
}

static aif_err
files_fail(const sqlite *s, aif_error *e)
{
    return aif_fail(e, AIF_ECORRUPT,
                    "the -wal or the -shm file of %s was deleted or replaced "
                    "while it was in use: end all programs that have it "
                    "open, then start them again",
                    s->path);
}

/* SQLite does not look at the paths of what it has open.  It would go on
 * writing to a file that nobody can open any more, and say that all is well.
 * Where -wal or -shm was deleted, the next process to come makes new ones;
 * from then on each has a log of its own, and neither sees the other's locks.
 * All connections of a process share one -shm, deleted or not, so to connect
 * again is no way out.  The three looks take 2 us, where one was made by
 * SQLITE_FCNTL_HAS_MOVED. */
static aif_err
files_check(sqlite *s, aif_error *e)
{
    struct stat now[FILES];

    files_look(s, false, now);
    if (!file_is(&now[MAIN], &s->seen[MAIN])) {
        sqlite_drop(s);
        return aif_fail(e, AIF_ESTORE, "%s was moved or deleted", s->path);
    }
    for (int i = WAL; i < FILES; i++) {
        if (now[i].st_ino == 0 || !file_is(&now[i], &s->seen[i])) {
            s->torn = now[MAIN];
            sqlite_drop(s);
            return files_fail(s, e);
        }
    }
    s->seen[MAIN] = now[MAIN];
    return AIF_OK;
}

/* --- statements --------------------------------------------------------- */

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

/* Going over to WAL does not wait for another that does so now, but for other
 * locks it does. */
static int
wal_enter(sqlite *s)
{
    static const char sql[] = "PRAGMA journal_mode = WAL";
    const int64_t until = aif_now_ms() + lock_ms(s);
    int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);

    while ((rc & 0xff) == SQLITE_BUSY && aif_now_ms() < until) {
        (void)sqlite3_sleep(RETRY_MS);
        rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    }
    return rc;
}

/* Texts go in and come out as the bytes that they are, which is UTF-8 only in
 * a file that keeps them so. */
static aif_err
encoding_check(sqlite *s, aif_error *e)
{
    const aif_statement st = {.sql = "PRAGMA encoding", .place = AIF_DB_ONCE};
    bool there;
    aif_err err = sqlite_ask(s, &st, "opening", e);

    if (err != AIF_OK) {
        return err;
    }
    err = sqlite_next(s, &there, e);
    if (err == AIF_OK && !aif_str_eq(sqlite_text(s, 0), AIF_STR("UTF-8"))) {
        err = aif_fail(e, AIF_EINVAL,
                       "%s keeps its texts in UTF-16: %s needs a file whose "
                       "PRAGMA encoding is UTF-8",
                       s->path, s->needs->called);
    }
    sqlite_done(s);
    return err;
}

static int
settings_set(sqlite *s)
{
    int rc =
        sqlite3_exec(s->db, "PRAGMA synchronous = FULL", NULL, NULL, NULL);

    for (const char *const *own = s->needs->settings;
         rc == SQLITE_OK && *own != NULL; own++) {
        char sql[100];

        (void)sqlite3_snprintf(sizeof sql, sql, "PRAGMA %s", *own);
        rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    }
    return rc;
}

/* Needs the file to be there. */
static aif_err
sqlite_connect(void *db, aif_error *e)
{
    sqlite *s = db;
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
        rc = settings_set(s);
    }
    if (rc == SQLITE_OK) { /* the first read makes -wal and -shm */
        rc = sqlite3_exec(s->db, "SELECT 1 FROM sqlite_master", NULL, NULL,
                          NULL);
    }
    err = rc == SQLITE_OK ? encoding_check(s, e)
                          : sqlite_fail(s, rc, "opening", e);
    if (err != AIF_OK) {
        sqlite_drop(s);
        return err;
    }
    files_look(s, false, s->seen);
    if (!file_is_open(&s->seen[SHM])) { /* SQLite gave us an older one */
        s->seen[SHM] = (struct stat){0};
    }
    return files_check(s, e);
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
sqlite_open(const char *uri, const aif_db_needs *needs, bool hurry, void **db,
            aif_error *e)
{
    const char *path = uri + sizeof SCHEME - 1;
    sqlite *s;
    aif_err err;

    *db = NULL;
    s = aif_zalloc(sizeof *s + strlen(path) + 1);
    if (s == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening %s", path);
    }
    s->needs = needs;
    s->hurry = hurry;
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

static aif_err
sqlite_ready(void *db, bool *lost, aif_error *e)
{
    sqlite *s = db;
    struct stat now;

    if (s->stale) {
        s->stale = false;
        sqlite_drop(s);
    }
    *lost = s->db == NULL;
    if (!*lost) {
        return files_check(s, e);
    }
    return stat(s->path, &now) == 0 && file_is(&now, &s->torn)
               ? files_fail(s, e)
               : AIF_OK;
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
    .connect = sqlite_connect,
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
