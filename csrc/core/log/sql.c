#include "log/sql.h"

#include "log/store.h"

#define NUMBER(n) TEXT(n)
#define TEXT(n) #n

/* The longest statement has an event of the greatest size, and what is around
 * it. */
#define NEEDS(own)                                                            \
    {                                                                         \
        .called = "a log", .session = "aiflow log", .settings = own,          \
        .longest = 2u << 20                                                   \
    }

/* What the three have in common.  O, K: how they write the columns "offset"
 * and "key"; P: what stands before a parameter's number; LOCKED: behind a
 * SELECT that keeps others from appending.  Numbers, then texts:
 *   READ      after, upto, how many rows
 *   COUNT     after, upto
 *   NEWEST    after, upto, how many to pass over
 *   SENDERS   after, upto, how many rows
 *   SEQUENCE  producer
 *   FIND      sequence; producer
 *   UPTO      namespace
 *   OLDEST    after, upto, how many rows
 *   COUNT_GONE  the last that went, how many, now; namespace
 *   RAISE     the last that went
 *   RENEW     the new id, the one that it must have had
 *   CURSOR_FIND, CURSOR_FORGET  namespace, name
 *   CURSOR_TAKE  now, holder; namespace, name
 *   CURSOR_NEW, CURSOR_MOVE  now, holder, offset; namespace, name
 *   EXISTS    its row: is there aiflow_log_head, has it log_id, and is there
 *             aiflow_cursor? */
#define COLUMNS(O, K)                                                         \
    O ", create_time, namespace, " K                                          \
      ", value, type, sender, context, producer, sequence"
#define ASKED(O, P)                                                           \
    " FROM aiflow_event WHERE " O " > " P "1 AND " O " <= " P "2"
#define HEAD(O)                                                               \
    "SELECT " O ", purged, create_time, log_id"                               \
    " FROM aiflow_log_head WHERE id = 1"
#define VERSION "SELECT version FROM aiflow_log_head WHERE id = 1"
/* Those of a log that is gone. */
#define DROP_CURSORS "DROP TABLE IF EXISTS aiflow_cursor"
#define CURSORS(O, P)                                                         \
    [AIF_SQL_CURSOR_FIND] = {"nn",                                            \
                             "SELECT " O ", holder FROM aiflow_cursor"        \
                             " WHERE namespace = " P "1 AND name = " P "2",   \
                             ""},                                             \
    [AIF_SQL_CURSOR_COUNT] = {"n", "SELECT count(*) FROM aiflow_cursor", ""}, \
    [AIF_SQL_CURSOR_NEW] = {"",                                               \
                            "INSERT INTO aiflow_cursor (moved_ms, holder, " O \
                            ", namespace, name) VALUES (" P "1, " P "2, " P   \
                            "3, " P "4, " P "5)",                             \
                            ""},                                              \
    [AIF_SQL_CURSOR_TAKE] = {"",                                              \
                             "UPDATE aiflow_cursor SET moved_ms = " P         \
                             "1, holder = " P "2"                             \
                             " WHERE namespace = " P "3 AND name = " P "4",   \
                             ""},                                             \
    [AIF_SQL_CURSOR_MOVE] = {"",                                              \
                             "UPDATE aiflow_cursor SET moved_ms = " P "1, " O \
                             " = " P "3"                                      \
                             " WHERE " O " <= " P "3 AND holder = " P "2"     \
                             " AND namespace = " P "4 AND name = " P "5",     \
                             ""},                                             \
    [AIF_SQL_CURSOR_FORGET] = {"",                                            \
                               "DELETE FROM aiflow_cursor"                    \
                               " WHERE moved_ms <= " P "1"                    \
                               " AND namespace = " P "2 AND name = " P "3",   \
                               ""},                                           \
    [AIF_SQL_CURSORS] = {"ttnn",                                              \
                         "SELECT namespace, name, " O ", moved_ms"            \
                         " FROM aiflow_cursor ORDER BY namespace, name",      \
                         ""}
#define SHARED(O, K, P, LOCKED)                                               \
    [AIF_SQL_HEAD] = {"nnnn", HEAD(O), ""},                                   \
    [AIF_SQL_LOCK] = {"nnnn", HEAD(O) LOCKED, ""},                            \
    [AIF_SQL_RENEW] = {"",                                                    \
                       "UPDATE aiflow_log_head SET log_id = " P "1"           \
                       " WHERE id = 1 AND log_id = " P "2",                   \
                       ""},                                                   \
    [AIF_SQL_COUNT] = {"n", "SELECT count(*)" ASKED(O, P), ""},               \
    [AIF_SQL_NEWEST] = {"n", "SELECT " O ASKED(O, P),                         \
                        " ORDER BY " O " DESC LIMIT 1 OFFSET " P "3"},        \
    [AIF_SQL_SEQUENCE] = {"n",                                                \
                          "SELECT coalesce(max(sequence), 0)"                 \
                          " FROM aiflow_event WHERE producer = " P "1",       \
                          ""},                                                \
    [AIF_SQL_FIND] = {"n",                                                    \
                      "SELECT " O " FROM aiflow_event"                        \
                      " WHERE sequence = " P "1 AND producer = " P "2",       \
                      ""},                                                    \
    [AIF_SQL_PURGED] = {"tnn",                                                \
                        "SELECT namespace, upto, events"                      \
                        " FROM aiflow_log_purged ORDER BY namespace",         \
                        ""},                                                  \
    [AIF_SQL_VERSION] = {"n", VERSION, ""},                                   \
    [AIF_SQL_UPTO] = {"n",                                                    \
                      "SELECT upto FROM aiflow_log_purged"                    \
                      " WHERE namespace = " P "1",                            \
                      ""},                                                    \
    [AIF_SQL_OLDEST] = {"n", "SELECT " O ASKED(O, P),                         \
                        " ORDER BY " O " LIMIT " P "3"},                      \
    CURSORS(O, P)

/* An index on (key) would serve "list by exact key", and costs too much:
 * 50,000 events/s at batch 1000 instead of 130,000 (1,000 keys: each append
 * writes a page for each).  Add one to your copy if you query by key. */
#define SQLITE_PURGED                                                         \
    "CREATE TABLE aiflow_log_purged ("                                        \
    "  namespace TEXT PRIMARY KEY,"                                           \
    "  upto INTEGER NOT NULL,"                                                \
    "  events INTEGER NOT NULL,"                                              \
    "  purged_at INTEGER NOT NULL) WITHOUT ROWID"

static const char *const SQLITE_CURSORS[] = {
    "CREATE TABLE aiflow_cursor ("
    "  namespace TEXT NOT NULL,"
    "  name TEXT NOT NULL,"
    "  \"offset\" INTEGER NOT NULL,"
    "  holder INTEGER NOT NULL,"
    "  moved_ms INTEGER NOT NULL,"
    "  PRIMARY KEY (namespace, name)) WITHOUT ROWID",
    NULL};

static const char *const SQLITE_CREATE[] = {
    DROP_CURSORS,
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
    "  sequence INTEGER NOT NULL)",
    "CREATE UNIQUE INDEX aiflow_event_identity"
    "  ON aiflow_event (producer, sequence)",
    "CREATE TABLE aiflow_log_head ("
    "  id INTEGER PRIMARY KEY CHECK (id = 1),"
    "  version INTEGER NOT NULL,"
    "  \"offset\" INTEGER NOT NULL,"
    "  purged INTEGER NOT NULL,"
    "  create_time INTEGER NOT NULL)",
    SQLITE_PURGED,
    "INSERT INTO aiflow_log_head"
    " VALUES (1, " NUMBER(AIF_STORE_VERSION) ", 0, 0, 0)",
    NULL};

/* What was deleted by hand from the front of a log of version 1 (there was no
 * other way) was let go. */
static const char *const SQLITE_CONVERT[] = {
    "ALTER TABLE aiflow_log_head"
    "  ADD COLUMN purged INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE aiflow_log_head"
    "  ADD COLUMN create_time INTEGER NOT NULL DEFAULT 0",
    SQLITE_PURGED,
    "UPDATE aiflow_log_head SET version = 2,"
    "  purged = coalesce((SELECT min(\"offset\") - 1 FROM aiflow_event),"
    "    \"offset\"),"
    "  create_time = coalesce((SELECT create_time FROM aiflow_event"
    "    ORDER BY \"offset\" DESC LIMIT 1), 0)",
    "INSERT INTO aiflow_log_purged"
    "  SELECT '*', purged, purged, CAST((julianday('now') - 2440587.5)"
    "    * 86400000 AS INTEGER) FROM aiflow_log_head WHERE purged > 0",
    NULL};

#define READ(O, K, P)                                                         \
    [AIF_SQL_READ] = {"nntttttttn", "SELECT " COLUMNS(O, K) ASKED(O, P),      \
                      " ORDER BY " O " LIMIT " P "3"}

/* GREATEST: the function that gives the greater of two numbers. */
#define RAISE(GREATEST, P)                                                    \
    [AIF_SQL_RAISE] = {"",                                                    \
                       "UPDATE aiflow_log_head"                               \
                       " SET purged = " GREATEST "(purged, " P "1)"           \
                       " WHERE id = 1",                                       \
                       ""}
#define COUNT_GONE(GREATEST, P)                                               \
    [AIF_SQL_COUNT_GONE] = {"",                                               \
                            "INSERT INTO aiflow_log_purged AS was"            \
                            " VALUES (" P "4, " P "1, " P "2, " P "3)"        \
                            " ON CONFLICT (namespace) DO UPDATE SET"          \
                            " upto = " GREATEST "(was.upto, " P "1),"         \
                            " events = was.events + " P "2, purged_at = " P   \
                            "3",                                              \
                            ""}

#define SQLITE_ASKED ASKED("\"offset\"", "?")

/* Measured with bench_log, 1,000 events at a time, on ext4: wal_autocheckpoint
 * 4000 or pages of 8192 are within the noise.  The WAL is written over and
 * over, 90 us a commit where growing it costs 370: it should be full soon. */
static const char *const SQLITE_SETTINGS[] = {
    "cache_size = -32768", "wal_autocheckpoint = 1000", NULL};

/* An append of SQLite waits for the lock at its BEGIN.  Everything is bound
 * as text.  A prefix is not GLOB: it may have its characters. */
const aif_sql_dialect aif_sql_sqlite = {
    .needs = NEEDS(SQLITE_SETTINGS),
    .texts =
        {
            SHARED("\"offset\"", "key", "?", ""),
            RAISE("max", "?"),
            COUNT_GONE("max", "?"),
            READ("\"offset\"", "key", "?"),
            [AIF_SQL_EXISTS] = {"nnn",
                                "SELECT count(*),"
                                " coalesce(sum(sql LIKE '%log_id%'), 0),"
                                " (SELECT count(*) FROM sqlite_schema"
                                "  WHERE name = 'aiflow_cursor')"
                                " FROM sqlite_schema"
                                " WHERE name = 'aiflow_log_head'",
                                ""},
            [AIF_SQL_APPEND_ONE] =
                {"",
                 "INSERT INTO aiflow_event ("
                 "\"offset\", create_time, sequence, namespace, key, value,"
                 " type, sender, context, producer)"
                 " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
                 " ON CONFLICT (producer, sequence) DO NOTHING",
                 ""},
            [AIF_SQL_MOVE] = {"",
                              "UPDATE aiflow_log_head"
                              " SET \"offset\" = ?1, create_time = ?2"
                              " WHERE id = 1",
                              ""},
            [AIF_SQL_SENDERS] = {"nt", "SELECT count(*), sender" SQLITE_ASKED,
                                 " GROUP BY sender ORDER BY sender LIMIT ?3"},
        },
    .where = {.exact = "%s = ?%d",
              .in = {" AND key IN ("},
              .in_end = ")",
              .one_of = "?%d",
              .prefix = "substr(CAST(%1$s AS BLOB), 1,"
                        " length(CAST(?%2$d AS BLOB))) = CAST(?%2$d AS BLOB)"},
    .offset = "\"offset\"",
    .page_first = SIZE_MAX,
    .page_most = SIZE_MAX,
    .create = SQLITE_CREATE,
    .convert = SQLITE_CONVERT,
    .cursors = SQLITE_CURSORS,
    .called = "the file",
};

#define PG_COLUMNS COLUMNS("\"offset\"", "key")
#define PG_ASKED ASKED("\"offset\"", "$")
/* Row: 0 and the head before. */
#define PG_BEFORE                                                             \
    "SELECT 0::int8, \"offset\", purged, create_time, log_id FROM head"
#define PG_LOCK                                                               \
    "SELECT \"offset\", purged, create_time, log_id FROM aiflow_log_head"     \
    " WHERE id = 1 FOR UPDATE"

/* The head's row is locked to the commit, so that offset order is commit
 * order.  It is locked first: what others wait for and then find is what they
 * go on from, though their snapshot is older.  An event that is known already
 * is a unique_violation, which undoes all of it.
 * unnest in the select list, not in FROM: 9 us an event instead of 12.  COPY
 * (the head locked and moved in the same query, the rows with their offsets
 * in binary) makes a slot for each row that it holds back: 8.1 us of the
 * server's CPU an event instead of 6.4 at batch 1000, 11.0 instead of 9.4 at
 * 100, and only at 10,000 fewer, 5.9 instead of 6.6 (PostgreSQL 15, the least
 * of nine runs of each, in turn; a third of it is the two unique indexes). */
static const char PG_APPEND[] =
    "WITH head AS MATERIALIZED (" PG_LOCK "), moved AS ("
    "  UPDATE aiflow_log_head AS h"
    "  SET \"offset\" = head.\"offset\" + cardinality($1::int8[]),"
    "    create_time = greatest(head.create_time,"
    "      ($1::int8[])[cardinality($1::int8[])])"
    "  FROM head WHERE id = 1"
    "), added AS ("
    "  INSERT INTO aiflow_event (" PG_COLUMNS ")"
    "  SELECT \"offset\" + generate_subscripts($1::int8[], 1),"
    "    greatest(create_time, unnest($1::int8[])),"
    "    unnest($2::text[]), unnest($3::text[]), unnest($4::text[]),"
    "    unnest($5::text[]), unnest($6::text[]), unnest($7::text[]),"
    "    unnest($8::text[]), unnest($9::int8[])"
    "  FROM head"
    ")" PG_BEFORE;

/* The same for a single event, which is the usual case: it needs no lock of
 * its own, as the time before, which RETURNING cannot say, is of no interest
 * where the event's own is as great.  64 us of the server's CPU instead of 76;
 * a function in PL/pgSQL: 88. */
static const char PG_APPEND_ONE[] =
    "WITH head AS ("
    "  UPDATE aiflow_log_head SET \"offset\" = \"offset\" + 1,"
    "    create_time = greatest(create_time, $1::int8)"
    "  WHERE id = 1"
    "  RETURNING \"offset\" - 1 AS \"offset\", purged, create_time, log_id"
    "), added AS ("
    "  INSERT INTO aiflow_event (" PG_COLUMNS ")"
    "  SELECT \"offset\" + 1, create_time, $2::text, $3::text, $4::text,"
    "    $5::text, $6::text, $7::text, $8::text, $9::int8"
    "  FROM head"
    ")" PG_BEFORE;

/* The same for many, where some are known: those keep their offsets.
 * Another's commit of one after our snapshot is a unique_violation again.
 * This alone would do for both, at 20 us an event.  Rows: also (i, offset) of
 * each known one. */
static const char PG_APPEND_AGAIN[] =
    "WITH given AS MATERIALIZED ("
    "  SELECT u.*, (SELECT e.\"offset\" FROM aiflow_event e"
    "    WHERE e.producer = u.producer AND e.sequence = u.sequence) AS known"
    "  FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[],"
    "    $5::text[], $6::text[], $7::text[], $8::text[], $9::int8[])"
    "    WITH ORDINALITY AS u (create_time, namespace, key, value, type,"
    "      sender, context, producer, sequence, i)"
    "), fresh AS MATERIALIZED ("
    "  SELECT *, row_number() OVER (ORDER BY i) AS k"
    "  FROM given WHERE known IS NULL"
    "), head AS MATERIALIZED (" PG_LOCK "), moved AS ("
    "  UPDATE aiflow_log_head AS h"
    "  SET \"offset\" = head.\"offset\" + (SELECT count(*) FROM fresh),"
    "    create_time = greatest(head.create_time,"
    "      (SELECT max(create_time) FROM fresh))"
    "  FROM head WHERE id = 1"
    "), added AS ("
    "  INSERT INTO aiflow_event (" PG_COLUMNS ")"
    "  SELECT head.\"offset\" + k,"
    "    greatest(head.create_time, fresh.create_time), namespace, key,"
    "    value, type, sender, context, producer, sequence"
    "  FROM fresh, head"
    ")" PG_BEFORE
    " UNION ALL SELECT i, known, 0, 0, 0 FROM given WHERE known IS NOT NULL";

/* No index on (key, "offset"), as in SQLite: 67,000 events/s at batch 1000
 * with it, 144,000 without (a server whose disk does not count). */
#define PG_PURGED                                                             \
    "CREATE TABLE aiflow_log_purged ("                                        \
    "  namespace text COLLATE \"C\" PRIMARY KEY,"                             \
    "  upto int8 NOT NULL,"                                                   \
    "  events int8 NOT NULL,"                                                 \
    "  purged_at int8 NOT NULL)"

static const char *const PG_CURSORS[] = {
    "CREATE TABLE aiflow_cursor ("
    "  namespace text COLLATE \"C\" NOT NULL,"
    "  name text COLLATE \"C\" NOT NULL,"
    "  \"offset\" int8 NOT NULL,"
    "  holder int8 NOT NULL,"
    "  moved_ms int8 NOT NULL,"
    "  PRIMARY KEY (namespace, name)) WITH (fillfactor = 50)",
    NULL};

static const char *const PG_CREATE[] = {
    DROP_CURSORS,
    "CREATE TABLE aiflow_event ("
    "  \"offset\" int8 PRIMARY KEY,"
    "  create_time int8 NOT NULL,"
    "  namespace text NOT NULL,"
    "  key text NOT NULL,"
    "  value text NOT NULL,"
    "  type text NOT NULL,"
    "  sender text NOT NULL,"
    "  context text NOT NULL,"
    "  producer text COLLATE \"C\" NOT NULL,"
    "  sequence int8 NOT NULL,"
    "  CONSTRAINT aiflow_event_identity UNIQUE (producer, sequence))",
    "CREATE TABLE aiflow_log_head ("
    "  id int4 PRIMARY KEY CHECK (id = 1),"
    "  version int4 NOT NULL,"
    "  \"offset\" int8 NOT NULL,"
    "  purged int8 NOT NULL,"
    "  create_time int8 NOT NULL) WITH (fillfactor = 10)",
    PG_PURGED,
    "INSERT INTO aiflow_log_head"
    " VALUES (1, " NUMBER(AIF_STORE_VERSION) ", 0, 0, 0)",
    NULL};

static const char *const PG_CONVERT[] = {
    "ALTER TABLE aiflow_log_head"
    "  ADD COLUMN purged int8 NOT NULL DEFAULT 0,"
    "  ADD COLUMN create_time int8 NOT NULL DEFAULT 0",
    PG_PURGED,
    "UPDATE aiflow_log_head SET version = 2,"
    "  purged = coalesce((SELECT min(\"offset\") - 1 FROM aiflow_event),"
    "    \"offset\"),"
    "  create_time = coalesce((SELECT create_time FROM aiflow_event"
    "    ORDER BY \"offset\" DESC LIMIT 1), 0)",
    "INSERT INTO aiflow_log_purged"
    "  SELECT '*', purged, purged,"
    "    (extract(epoch FROM clock_timestamp()) * 1000)::int8"
    "  FROM aiflow_log_head WHERE purged > 0",
    NULL};

/* The planner is told what we know: every query of ours goes by a primary key
 * or by a unique one, also while the table is so small that it would rather
 * scan it, as the plan is kept. */
static const char *const PG_SETTINGS[] = {
    "plan_cache_mode = force_generic_plan",
    "enable_seqscan = off",
    "enable_bitmapscan = off",
    "enable_hashjoin = off",
    "enable_mergejoin = off",
    "max_parallel_workers_per_gather = 0",
    "jit = off",
    NULL};

/* READ has bytes of values as its fourth number: an answer is taken in whole
 * by libpq.  (Lengths do not need the values: they may be TOASTed.)
 * A list of keys is VALUES, and IS TRUE, so that the server makes a hash table
 * of them: it compares a list of parameters one by one, and would make a join
 * of VALUES alone, which it does one by one as well. */
const aif_sql_dialect aif_sql_pg = {
    .needs = NEEDS(PG_SETTINGS),
    .texts =
        {
            SHARED("\"offset\"", "key", "$", " FOR UPDATE"),
            RAISE("greatest", "$"),
            COUNT_GONE("greatest", "$"),
            /* Not to_regclass: inside a transaction it may still know that
             * there was none. */
            [AIF_SQL_EXISTS] =
                {"nnn",
                 "SELECT count(*), count(a.attname),"
                 " (SELECT count(*) FROM pg_class AS c"
                 "  WHERE c.relname = 'aiflow_cursor'"
                 "  AND c.relkind IN ('r', 'p')"
                 "  AND pg_table_is_visible(c.oid))"
                 " FROM pg_class AS c"
                 " LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid"
                 "  AND a.attname = 'log_id' AND NOT a.attisdropped"
                 " WHERE c.relname = 'aiflow_log_head'"
                 " AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)",
                 ""},
            [AIF_SQL_SCHEMA_LOCK] =
                {"n",
                 "SELECT 1::int8 FROM"
                 " pg_advisory_xact_lock(7092165482341005153)",
                 ""},
            [AIF_SQL_APPEND] = {"", PG_APPEND, ""},
            [AIF_SQL_APPEND_ONE] = {"", PG_APPEND_ONE, ""},
            [AIF_SQL_APPEND_AGAIN] = {"", PG_APPEND_AGAIN, ""},
            [AIF_SQL_READ] =
                {"nntttttttn",
                 "SELECT " PG_COLUMNS " FROM ("
                 "SELECT *, sum(octet_length(value)) OVER"
                 "  (ORDER BY \"offset\" ROWS UNBOUNDED PRECEDING)"
                 "  - octet_length(value) AS bytes_before"
                 " FROM (SELECT *" PG_ASKED,
                 " ORDER BY \"offset\" LIMIT $3) AS page"
                 ") AS measured WHERE bytes_before < $4"
                 " ORDER BY \"offset\""},
            [AIF_SQL_SENDERS] = {"nt", "SELECT count(*), sender" PG_ASKED,
                                 " GROUP BY sender"
                                 " ORDER BY sender COLLATE \"C\" LIMIT $3"},
        },
    .where = {.exact = "%s = $%d",
              .prefix = "starts_with(%s, $%d)",
              .in = {" AND (key IN (VALUES "},
              .in_end = ")) IS TRUE",
              .one_of = "($%d)"},
    .offset = "\"offset\"",
    .page_first = 2000,
    .page_most = 2000,
    .create = PG_CREATE,
    .convert = PG_CONVERT,
    .cursors = PG_CURSORS,
    .called = "the database",
    .read_bytes = true,
};

/* Text is compared by its bytes, but 'a' equals 'a ' in utf8mb4_bin: where
 * that matters the columns are VARBINARY, or a length is compared too. (NO
 * PAD collations have other names in MySQL than in MariaDB.)
 *
 * No index on (key, offset), as in the other stores. */
static const char *const MYSQL_CURSORS[] = {
    "CREATE TABLE IF NOT EXISTS aiflow_cursor ("
    "  namespace VARBINARY(256) NOT NULL,"
    "  name VARBINARY(255) NOT NULL,"
    "  `offset` BIGINT NOT NULL,"
    "  holder BIGINT NOT NULL,"
    "  moved_ms BIGINT NOT NULL,"
    "  PRIMARY KEY (namespace, name)) ENGINE = InnoDB",
    NULL};

static const char *const MYSQL_CREATE[] = {
    DROP_CURSORS,
    "CREATE TABLE IF NOT EXISTS aiflow_event ("
    "  `offset` BIGINT NOT NULL PRIMARY KEY,"
    "  create_time BIGINT NOT NULL,"
    "  namespace VARCHAR(255) NOT NULL,"
    "  `key` VARCHAR(1024) NOT NULL,"
    "  value MEDIUMTEXT NOT NULL,"
    "  type VARCHAR(255) NOT NULL,"
    "  sender VARCHAR(255) NOT NULL,"
    "  context VARCHAR(1024) NOT NULL,"
    "  producer VARBINARY(64) NOT NULL,"
    "  sequence BIGINT NOT NULL,"
    "  UNIQUE KEY aiflow_event_identity (producer, sequence))"
    " ENGINE = InnoDB ROW_FORMAT = DYNAMIC"
    " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS aiflow_log_purged ("
    "  namespace VARBINARY(256) NOT NULL PRIMARY KEY,"
    "  upto BIGINT NOT NULL,"
    "  events BIGINT NOT NULL,"
    "  purged_at BIGINT NOT NULL) ENGINE = InnoDB",
    "CREATE TABLE IF NOT EXISTS aiflow_log_head_new ("
    "  id INT NOT NULL PRIMARY KEY,"
    "  version INT NOT NULL,"
    "  `offset` BIGINT NOT NULL,"
    "  purged BIGINT NOT NULL,"
    "  create_time BIGINT NOT NULL) ENGINE = InnoDB",
    "INSERT IGNORE INTO aiflow_log_head_new"
    " (id, version, `offset`, purged, create_time)"
    " VALUES (1, " NUMBER(AIF_STORE_VERSION) ", 0, 0, 0)",
    "RENAME TABLE aiflow_log_head_new TO aiflow_log_head",
    NULL};

/* The row is locked to the commit, so that offset order is commit order.  It
 * mostly is what it was after our last append: to take it so, unread, makes
 * an append four round trips instead of five, and 150 us of the server
 * instead of 240. */
static const char MYSQL_TAKE[] =
    "UPDATE aiflow_log_head SET `offset` = ?, create_time = ?"
    " WHERE id = 1 AND `offset` = ? AND create_time = ? AND purged = ?"
    " AND log_id = ?";

/* Each identity once, whatever the server's default is. */
static const char *const MYSQL_SETTINGS[] = {"unique_checks = 1", NULL};

#define MYSQL_COLUMNS COLUMNS("`offset`", "`key`")
#define TEN(x) x x x x x x x x x x
static const char MYSQL_APPEND[] =
    "INSERT INTO aiflow_event (" MYSQL_COLUMNS ")"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)" TEN(TEN(AIF_SQL_ROW));

#define MYSQL_ASKED ASKED("`offset`", "$")

/* Senders and namespaces by their bytes: 'a' and 'a ' are two, and equal in
 * utf8mb4_bin.  (VALUES() in ON DUPLICATE KEY is MariaDB's VALUE(), and MySQL
 * would rather have an alias there: the numbers go in twice.)  How long rows
 * are nobody knows: the first page of a read is small, and tells of the next.
 */
const aif_sql_dialect aif_sql_mysql = {
    .needs = NEEDS(MYSQL_SETTINGS),
    .texts =
        {
            SHARED("`offset`", "`key`", "$", " FOR UPDATE"),
            RAISE("greatest", "$"),
            READ("`offset`", "`key`", "$"),
            [AIF_SQL_EXISTS] =
                {"nnn",
                 "SELECT COUNT(DISTINCT TABLE_NAME),"
                 " COUNT(CASE COLUMN_NAME WHEN 'log_id' THEN 1 END),"
                 " (SELECT COUNT(*) FROM information_schema.TABLES"
                 "  WHERE TABLE_SCHEMA = DATABASE()"
                 "  AND TABLE_NAME = 'aiflow_cursor')"
                 " FROM information_schema.COLUMNS"
                 " WHERE TABLE_SCHEMA = DATABASE()"
                 " AND TABLE_NAME = 'aiflow_log_head'",
                 ""},
            /* It ends with its session.  In a hurry lock_wait_timeout is 1.
             * A name has at most 64 characters; MySQL 9 has no SHA1. */
            [AIF_SQL_SCHEMA_LOCK] =
                {"n",
                 "SELECT GET_LOCK(CONCAT('aiflow_', SHA2(DATABASE(), 224)),"
                 " IF(@@lock_wait_timeout = 1, 1, 10))",
                 ""},
            [AIF_SQL_SCHEMA_UNLOCK] = {"n",
                                       "SELECT RELEASE_LOCK(CONCAT('aiflow_', "
                                       "SHA2(DATABASE(), 224)))",
                                       ""},
            [AIF_SQL_ODD] =
                {"nn",
                 "SELECT (SELECT COUNT(*) FROM information_schema.TABLES"
                 "  WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN"
                 "   ('aiflow_event', 'aiflow_log_purged', 'aiflow_log_head')"
                 "  AND ENGINE <> 'InnoDB'),"
                 " (SELECT COUNT(*) FROM information_schema.COLUMNS"
                 "  WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = "
                 "'aiflow_event'"
                 "  AND COLLATION_NAME <> 'utf8mb4_bin')",
                 ""},
            [AIF_SQL_APPEND] = {"", MYSQL_APPEND, ""},
            [AIF_SQL_MOVE] = {"", MYSQL_TAKE, ""},
            [AIF_SQL_SENDERS] =
                {"nt",
                 "SELECT count(*), CAST(sender AS BINARY) AS who" MYSQL_ASKED,
                 " GROUP BY who ORDER BY who LIMIT $3"},
            [AIF_SQL_COUNT_GONE] =
                {"",
                 "INSERT INTO aiflow_log_purged VALUES ($4, $1, $2, $3)"
                 " ON DUPLICATE KEY UPDATE upto = greatest(upto, $1),"
                 " events = events + $2, purged_at = $3",
                 ""},
        },
    .where = {.exact = "LENGTH(`%1$s`) = LENGTH($%2$d) AND `%1$s` = $%2$d",
              .in = {" AND `key` IN (", " AND CAST(`key` AS BINARY) IN ("},
              .in_end = ")",
              .one_of = "$%d",
              .prefix = "LEFT(CAST(`%1$s` AS BINARY), LENGTH($%2$d)) = $%2$d"},
    .offset = "`offset`",
    .page_first = 100,
    .page_most = 5000,
    .create = MYSQL_CREATE,
    .convert = NULL,
    .cursors = MYSQL_CURSORS,
    .called = "the database",
};
