/* schema.c - the tables of a log: there, or made now; of this version, or
 * converted.
 *
 * The happy path is a look at the version, which needs no right to make
 * tables.  Where there is no log, or one of version 1, one transaction makes
 * or converts it; in there everything is looked at again, for two may open a
 * new log at once.  The same gives what it lacks to a log that an earlier
 * aiflow_ext made, which goes on with it: the table of cursors, and an id,
 * which is the default of a column that it does not know, so that one
 * statement adds it, in MySQL too.
 *
 * A log that was open once is not made again: where its tables are gone, that
 * is said.
 *
 * MySQL commits each CREATE TABLE by itself.  So aiflow_log_head, which says
 * that there is a log, comes last, with its row in it: whoever finds none,
 * after a crash in the middle, makes what is missing.
 */
#include "log/sql_store.h"

#include "base/point.h"
#include "log/identity.h"

#include <stdio.h>

#define WHAT "opening the log"

static aif_err
one_number(aif_sql_store *s, aif_sql which, uint64_t *out, bool *there,
           aif_error *e)
{
    aif_statement none = {.n_numbers = 0};

    return aif_sql_row(s, which, &none, WHAT, out, 1, there, e);
}

static aif_err
version_read(aif_sql_store *s, uint64_t *version, aif_error *e)
{
    bool there;
    aif_err err = one_number(s, AIF_SQL_VERSION, version, &there, e);

    return err != AIF_OK || there
               ? err
               : aif_fail(e, AIF_ECORRUPT,
                          WHAT ": aiflow_log_head has lost its row");
}

/* What a log has that one of an earlier aiflow_ext lacks. */
typedef struct {
    bool id;
    bool cursors;
} schema_has;

/* *version 0: there is no log. */
static aif_err
version_find(aif_sql_store *s, uint64_t *version, schema_has *has,
             aif_error *e)
{
    aif_statement none = {.n_numbers = 0};
    uint64_t found[3];
    bool there;
    aif_err err =
        aif_sql_row(s, AIF_SQL_EXISTS, &none, WHAT, found, 3, &there, e);

    *version = 0;
    *has = (schema_has){found[1] > 0, found[2] > 0};
    return err != AIF_OK || found[0] == 0 ? err : version_read(s, version, e);
}

/* Ask for an event that there cannot be: all columns must be there. */
static aif_err
check_columns(aif_sql_store *s, aif_error *e)
{
    aif_statement st = {.numbers = {INT64_MAX, INT64_MAX, 1, 1},
                        .n_numbers = s->sql->read_bytes ? 4 : 3};
    uint64_t offset;
    bool there;

    return aif_sql_row(s, AIF_SQL_READ, &st, WHAT, &offset, 1, &there, e);
}

static aif_err
run_all(aif_sql_store *s, const char *const *statements, aif_error *e)
{
    aif_err err = AIF_OK;

    for (size_t i = 0; err == AIF_OK && statements[i] != NULL; i++) {
        const aif_statement st = {.sql = statements[i], .place = AIF_DB_ONCE};

        err = s->ops->change(s->db, &st, WHAT, NULL, e);
    }
    return err;
}

static aif_err
id_add(aif_sql_store *s, aif_error *e)
{
    char sql[128];
    const char *const statements[] = {sql, NULL};
    uint64_t id;
    aif_err err = aif_log_id_draw(&id, e);

    if (err != AIF_OK) {
        return err;
    }
    (void)snprintf(sql, sizeof sql,
                   "ALTER TABLE aiflow_log_head"
                   " ADD COLUMN log_id BIGINT NOT NULL DEFAULT %llu",
                   (unsigned long long)id);
    return run_all(s, statements, e);
}

/* Within the transaction, under the lock. */
static aif_err
make_or_convert(aif_sql_store *s, uint64_t *version, aif_error *e)
{
    schema_has has;
    aif_err err = version_find(s, version, &has, e);

    if (err == AIF_OK && *version == 0) {
        err = run_all(s, s->sql->create, e);
        if (err == AIF_OK) {
            err = version_find(s, version, &has, e);
        }
    } else if (err == AIF_OK && *version == 1 && s->sql->convert != NULL) {
        err = run_all(s, s->sql->convert, e);
        AIF_POINT("convert.before_commit");
    }
    if (err == AIF_OK && !has.id && *version <= AIF_STORE_VERSION) {
        err = id_add(s, e);
    }
    if (err == AIF_OK && !has.cursors && *version <= AIF_STORE_VERSION) {
        err = run_all(s, s->sql->cursors, e);
    }
    return err != AIF_OK ? err : version_read(s, version, e);
}

/* Where the transaction is not all that keeps others from making tables. */
static aif_err
schema_lock(aif_sql_store *s, aif_sql which, aif_error *e)
{
    uint64_t got = 1;
    bool there;
    aif_err err = AIF_OK;

    if (s->sql->texts[which].from != NULL) {
        err = one_number(s, which, &got, &there, e);
    }
    if (err == AIF_OK && got != 1) {
        err = aif_fail(e, AIF_ESTORE, WHAT ": another is making it");
        e->busy = s->hurry;
    }
    return err;
}

static aif_err
lock_and_make(aif_sql_store *s, uint64_t *version, aif_error *e)
{
    aif_err err = s->ops->begin(s->db, WHAT, e);

    if (err != AIF_OK) {
        return err;
    }
    err = schema_lock(s, AIF_SQL_SCHEMA_LOCK, e);
    if (err == AIF_OK) {
        err = make_or_convert(s, version, e);
    }
    if (err == AIF_OK) {
        err = schema_lock(s, AIF_SQL_SCHEMA_UNLOCK, e);
    }
    if (err == AIF_OK) {
        err = s->ops->commit(s->db, WHAT, e);
    }
    if (err != AIF_OK) {
        s->ops->undo(s->db);
        return err;
    }
    AIF_POINT("convert.after_commit");
    return AIF_OK;
}

/* Somebody may have converted the tables: then texts would not come back as
 * they went in, or not be durable. */
static aif_err
check_tables(aif_sql_store *s, aif_error *e)
{
    aif_statement none = {.n_numbers = 0};
    uint64_t odd[2];
    bool there;
    aif_err err = aif_sql_row(s, AIF_SQL_ODD, &none, WHAT, odd, 2, &there, e);

    if (err != AIF_OK) {
        return err;
    }
    if (odd[0] > 0) {
        return aif_fail(e, AIF_EINVAL,
                        "a table of the log is not InnoDB's: ALTER TABLE "
                        "aiflow_event ENGINE = InnoDB, and aiflow_log_head");
    }
    if (odd[1] > 0) {
        return aif_fail(e, AIF_EINVAL,
                        "a column of aiflow_event is not utf8mb4_bin: ALTER "
                        "TABLE aiflow_event CONVERT TO CHARACTER SET utf8mb4 "
                        "COLLATE utf8mb4_bin");
    }
    return AIF_OK;
}

aif_err
aif_sql_schema(aif_sql_store *s, aif_error *e)
{
    uint64_t version;
    schema_has has;
    aif_err err = version_find(s, &version, &has, e);

    if (err == AIF_OK && version == 0 && s->opened) {
        return aif_fail(e, AIF_ECORRUPT,
                        "%s has no log any more: its tables were dropped; "
                        "put them back, or open the log again to make a new "
                        "one",
                        s->sql->called);
    }
    if (err == AIF_OK && (version <= 1 || (version == AIF_STORE_VERSION &&
                                           !(has.id && has.cursors)))) {
        err = lock_and_make(s, &version, e);
    }
    if (err == AIF_OK && version != AIF_STORE_VERSION) {
        err = aif_fail(e, AIF_ECORRUPT,
                       "%s has a log of version %llu, this is version %d: use "
                       "the aiflow_ext that wrote it, or another one",
                       s->sql->called, (unsigned long long)version,
                       AIF_STORE_VERSION);
    }
    if (err == AIF_OK && s->sql->texts[AIF_SQL_ODD].from != NULL) {
        err = check_tables(s, e);
    }
    if (err == AIF_OK) {
        err = check_columns(s, e);
    }
    s->opened |= err == AIF_OK;
    return err;
}
