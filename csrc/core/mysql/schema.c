/* mysql/schema.c - the tables of a log in MySQL.
 *
 * Each CREATE TABLE is a transaction of its own there.  So aiflow_log_head,
 * which says that there is a log, comes last, with its row in it: whoever
 * finds none, after a crash in the middle, makes what is missing.
 */
#include "mysql/conn.h"

#include <string.h>

#define WHAT "opening the log"
#define NUMBER(n) TEXT(n)
#define TEXT(n) #n

/* Text is compared by its bytes, but 'a' equals 'a ' in utf8mb4_bin: where
 * that matters the columns are VARBINARY, or a length is compared too. (NO
 * PAD collations have other names in MySQL than in MariaDB.)
 *
 * No index on (key, offset), as in the other stores. */
static const char *const SCHEMA[] = {
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
    "INSERT IGNORE INTO aiflow_log_head_new VALUES"
    " (1, " NUMBER(AIF_STORE_VERSION) ", 0, 0, 0)",
    "RENAME TABLE aiflow_log_head_new TO aiflow_log_head",
};

/* Two may open a new log.  The lock ends with its session. */
static const char LOCK[] =
    "SELECT GET_LOCK(CONCAT('aiflow_', SHA1(DATABASE())), 10)";
static const char UNLOCK[] =
    "DO RELEASE_LOCK(CONCAT('aiflow_', SHA1(DATABASE())))";

static const char VERSION[] =
    "SELECT version FROM aiflow_log_head WHERE id = 1";

static const char ODD[] =
    "SELECT (SELECT COUNT(*) FROM information_schema.TABLES"
    "  WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN"
    "   ('aiflow_event', 'aiflow_log_purged', 'aiflow_log_head')"
    "  AND ENGINE <> 'InnoDB'),"
    " (SELECT COUNT(*) FROM information_schema.COLUMNS"
    "  WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'aiflow_event'"
    "  AND COLLATION_NAME <> 'utf8mb4_bin')";

static aif_err
read_version(aif_mysql *s, uint64_t *version, aif_error *e)
{
    bool found;
    aif_err err = aif_mysql_numbers(s, VERSION, WHAT, version, 1, &found, e);

    return err != AIF_OK || found
               ? err
               : aif_fail(e, AIF_ECORRUPT,
                          WHAT ": aiflow_log_head has lost its row");
}

static aif_err
exists(aif_mysql *s, uint64_t *found, aif_error *e)
{
    bool row;

    return aif_mysql_numbers(
        s,
        "SELECT COUNT(*) FROM information_schema.TABLES"
        " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'aiflow_log_head'",
        WHAT, found, 1, &row, e);
}

static aif_err
lock(aif_mysql *s, aif_error *e)
{
    uint64_t got = 0;
    bool row;
    aif_err err = aif_mysql_numbers(s, LOCK, WHAT, &got, 1, &row, e);

    return err != AIF_OK || got == 1
               ? err
               : aif_fail(e, AIF_ESTORE,
                          WHAT ": another has been making it for 10 s");
}

static aif_err
make(aif_mysql *s, aif_error *e)
{
    uint64_t found = 0;
    aif_err err = lock(s, e);

    if (err == AIF_OK) {
        err = exists(s, &found, e);
    }
    for (size_t i = 0;
         err == AIF_OK && found == 0 && i < sizeof SCHEMA / sizeof *SCHEMA;
         i++) {
        err = aif_mysql_run(s, SCHEMA[i], WHAT, e);
    }
    return err != AIF_OK ? err : aif_mysql_run(s, UNLOCK, WHAT, e);
}

/* Somebody may have converted the tables: then texts would not come back as
 * they went in, or not be durable. */
static aif_err
check_tables(aif_mysql *s, aif_error *e)
{
    uint64_t odd[2] = {0};
    bool row;
    aif_err err = aif_mysql_numbers(s, ODD, WHAT, odd, 2, &row, e);

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
aif_mysql_schema(aif_mysql *s, aif_error *e)
{
    uint64_t found = 0;
    uint64_t version = 0;
    aif_err err = exists(s, &found, e);

    if (err == AIF_OK && found == 0) {
        err = make(s, e);
    }
    if (err == AIF_OK) {
        err = read_version(s, &version, e);
    }
    if (err == AIF_OK && version != AIF_STORE_VERSION) {
        return aif_fail(e, AIF_ECORRUPT,
                        "the database has a log of version %llu, this is "
                        "version %d: use the aiflow_ext that wrote it, or "
                        "another database",
                        (unsigned long long)version, AIF_STORE_VERSION);
    }
    return err != AIF_OK ? err : check_tables(s, e);
}
