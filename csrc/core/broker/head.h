/* head.h - the newest offset of the log, as far as this broker knows it, and
 * whether it is still the same log.
 *
 * In:  what appends, reads and looks at the log found.
 * Out: the newest offset, and how far events may have been let go; when to
 *      look again, because other brokers and programs append too; and how
 *      often the log was replaced: by another one, or by an older copy.
 * The broker's thread only; each look asks the store.
 */
#ifndef AIF_BROKER_HEAD_H
#define AIF_BROKER_HEAD_H

#include "broker/status.h"
#include "log/log.h"

/* After the store failed it is asked again so much later. */
#define AIF_BROKER_STORE_RETRY_MS 200

typedef struct {
    aif_log *log;
    aif_status *status;
    uint64_t newest;   /* offset that is known */
    uint64_t purged;   /* at or below it events may have been let go */
    uint64_t log_id;   /* which log it is; 0: none was looked at yet */
    bool renew_due;    /* it is an older copy, which is to get another id */
    bool renew_failed; /* the last time */
    unsigned replaced; /* how often it was */
    aif_error why;     /* it was the last time */
    int poll_ms;       /* between two looks: at most (0: there are none), */
    int poll_least_ms; /* at least, */
    int poll_now_ms;   /* and now */
    int64_t keen;      /* until then poll_now_ms is not made longer */
    int64_t due;       /* the next look */
} aif_head_watch;

/* Open the log and look at its head.  The head then owns the log. */
AIF_MUST_CHECK aif_err aif_head_open(aif_head_watch *h, const char *uri,
                                     aif_status *status, aif_error *e);
void aif_head_close(aif_head_watch *h);
aif_log *aif_head_log(const aif_head_watch *h);
uint64_t aif_head_newest(const aif_head_watch *h);
uint64_t aif_head_purged(const aif_head_watch *h);
uint64_t aif_head_log_id(const aif_head_watch *h);
/* How often the log was replaced; *why: EREPLACED, of the last time.  What was
 * known of the log before the last time is not true any more. */
unsigned aif_head_replaced(const aif_head_watch *h, const aif_error **why);

/* Ask the store; *now is its answer. */
AIF_MUST_CHECK aif_err aif_head_look(aif_head_watch *h, aif_head *now,
                                     aif_error *e);
/* EINVAL: `from` lies beyond the newest event; the store was asked. */
AIF_MUST_CHECK aif_err aif_head_reach(aif_head_watch *h, uint64_t from,
                                      aif_error *e);
/* EREPLACED: who comes from the offset `from` of the log log_id cannot go on
 * from there in the log that *now is the head of. */
AIF_MUST_CHECK aif_err aif_head_resume(const aif_head *now, uint64_t log_id,
                                       uint64_t from, aif_error *e);
/* This broker appended: it found *before, and the newest is now `newest`. */
void aif_head_appended(aif_head_watch *h, const aif_head *before,
                       uint64_t newest);
/* A read found this offset, which may be beyond the newest one known. */
void aif_head_found(aif_head_watch *h, uint64_t offset);
/* Look, if it is time to. */
void aif_head_poll(aif_head_watch *h, int64_t now);
/* When it will be time; INT64_MAX: never. */
int64_t aif_head_due(const aif_head_watch *h);

#endif
