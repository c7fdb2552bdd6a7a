/* log.h - the durable event log: append, then read back by offset.
 *
 * In:  events.  Out: the same events, in offset order, without gaps.
 * Any thread of the process that opened it, one inside at a time.
 */
#ifndef AIF_LOG_H
#define AIF_LOG_H

#include "event/batch.h"
#include "base/err.h"
#include "event/event.h"
#include "event/query.h"
#include "log/store.h"

typedef struct aif_log aif_log;

/* Open "mem:", "sqlite:PATH" or "postgresql://...".  Makes the schema where
 * it is missing; ECORRUPT when it is another version's.  On failure *out is
 * NULL.  Messages never carry the password of a URI. */
AIF_MUST_CHECK aif_err aif_log_open(const char *uri, aif_log **out,
                                    aif_error *e);
/* The same, in a hurry: this call, and each later one, that waits for another
 * thread's call (ETIMEOUT), or for a lock that somebody else has in the
 * database (ESTORE), gives up after a second at most, with nothing done and
 * e->busy: the caller looks after its signals, and makes the same call again,
 * for as long as it likes.  Otherwise a call waits AIF_LOCK_WAIT_MS for a
 * lock. */
AIF_MUST_CHECK aif_err aif_log_open_hurried(const char *uri, aif_log **out,
                                            aif_error *e);

/* Does nothing to NULL, and nothing in a forked child: there it leaks. */
void aif_log_free(aif_log *log);

/* Make n events durable, all or none.  offsets[n] is written on success;
 * an event whose (producer, sequence) is in the log already, or earlier in
 * this call, keeps the offset it has and is not a second event; 0: it is not
 * that event (another namespace, key, type or value), and was left out.
 * create_time never goes back: an event's is that of the newest one before
 * it, or its own where that is later.  *before (may be NULL): the head that
 * the append found; new events lie beyond. */
AIF_MUST_CHECK aif_err aif_log_append(aif_log *log, const aif_event *events,
                                      size_t n, uint64_t *offsets,
                                      aif_head *before, aif_error *e);
/* ECONFLICT: what an offset of 0 means, with the offset of the other one; or
 * what kept us from asking. */
AIF_MUST_CHECK aif_err aif_log_conflict(aif_log *log, const aif_event *ev,
                                        aif_error *e);

/* Add to out at most max of the events that q means.  It may add fewer than
 * there are (AIF_READ_BYTES), but not none.  ERETENTION: some beyond q->after
 * were let go, and the text says from where to begin again; not so for
 * q->kept, nor after 0, which is from the oldest that is kept.  A row that cannot be ours, or a gap where nothing
 * was let go, is ECORRUPT.  On failure out is as before. */
AIF_MUST_CHECK aif_err aif_log_read(aif_log *log, const aif_query *q,
                                    size_t max, aif_batch *out, aif_error *e);
AIF_MUST_CHECK aif_err aif_log_count(aif_log *log, const aif_query *q,
                                     uint64_t *n, aif_error *e);
AIF_MUST_CHECK aif_err aif_log_head(aif_log *log, aif_head *out, aif_error *e);
/* The log went back: an older copy of it is there now.  Give it another id
 * than was, unless somebody has done so, so that all who knew it hear of it.
 * *id: the one that it has now. */
AIF_MUST_CHECK aif_err aif_log_renew(aif_log *log, uint64_t was, uint64_t *id,
                                     aif_error *e);
/* The newest that q means; 0: none. */
AIF_MUST_CHECK aif_err aif_log_last(aif_log *log, const aif_query *q,
                                    uint64_t *offset, aif_error *e);
/* Add to out (u64 how many, str sender) for each sender of what q means, by
 * its bytes; EINVAL: more than AIF_SENDERS_MAX.  On failure as before. */
AIF_MUST_CHECK aif_err aif_log_senders(aif_log *log, const aif_query *q,
                                       aif_buf *out, aif_error *e);
/* The greatest of a producer in the log; 0: none. */
AIF_MUST_CHECK aif_err aif_log_sequence(aif_log *log, aif_str producer,
                                        uint64_t *sequence, aif_error *e);
/* The last event created before ms; 0: none that is kept. */
AIF_MUST_CHECK aif_err aif_log_at(aif_log *log, int64_t ms, uint64_t *offset,
                                  aif_error *e);

/* Take a reader's cursor, or make it: from now on c->holder (not 0) holds it,
 * and nobody else.  *offset: where it is; *log_id: of this log.  EINVAL,
 * ECONFLICT, EREPLACED: see aif_cursor_begin. */
AIF_MUST_CHECK aif_err aif_log_take(aif_log *log, const aif_cursor *c,
                                    uint64_t *offset, uint64_t *log_id,
                                    aif_error *e);
/* Move it on to c->offset, but never back.  ECONFLICT: c->holder does not hold
 * it any more. */
AIF_MUST_CHECK aif_err aif_log_move(aif_log *log, const aif_cursor *c,
                                    aif_error *e);
/* Unless it was taken or moved after c->moved_ms.  *was: there was such a
 * one. */
AIF_MUST_CHECK aif_err aif_log_forget(aif_log *log, const aif_cursor *c,
                                      bool *was, aif_error *e);
/* Add all to out: (str ns, str name, u64 offset, u64 moved_ms).  On failure
 * out is as before. */
AIF_MUST_CHECK aif_err aif_log_cursors(aif_log *log, aif_buf *out,
                                       aif_error *e);

/* Let the oldest events go, at most max in one transaction, at or below upto
 * and in the namespaces that ns (exact, "*", a prefix "abc*") means. *gone is
 * how many they were: fewer than max, and there are no more.  Their
 * identities go with them: sent again, they would be new events. */
AIF_MUST_CHECK aif_err aif_log_purge(aif_log *log, aif_str ns, uint64_t upto,
                                     size_t max, uint64_t *gone, aif_error *e);
/* Add to out what was: (str ns, u64 upto, u64 events) for each ns of a purge,
 * by its bytes.  On failure out is as before. */
AIF_MUST_CHECK aif_err aif_log_purged(aif_log *log, aif_buf *out,
                                      aif_error *e);
/* The upto that lets all go but the newest n of ns; 0: there are no more. */
AIF_MUST_CHECK aif_err aif_log_keep(aif_log *log, aif_str ns, uint64_t n,
                                    uint64_t *upto, aif_error *e);

#endif
