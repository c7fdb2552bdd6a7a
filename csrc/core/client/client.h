/* client.h - the other end: publish and ask (aif_client), or be pushed to
 * (aif_sub).  Both ride out a broker that is killed and comes back.
 *
 * Every call has a time limit in ms and ends with ETIMEOUT when the broker
 * did not answer in it; the same call may simply be made again: events keep
 * their (producer, sequence), so a resend is not a second event.
 * Any thread of the opening process, one inside at a time.
 */
#ifndef AIF_CLIENT_H
#define AIF_CLIENT_H

#include "event/batch.h"
#include "base/buf.h"
#include "net/curve.h"
#include "base/err.h"
#include "event/event.h"
#include "event/pattern.h"
#include "event/query.h"
#include "event/cursor.h"

#include <stdint.h>

typedef struct aif_client aif_client;
typedef struct aif_sub aif_sub;

/* uris: "ipc://PATH" or "tcp://HOST:PORT", or several of them with commas
 * between: it talks to one, and to the next when that one is gone.  Opens no
 * connection that blocks: a broker may come later.  curve (copied; NULL: none)
 * is for tcp only.
 * From any call, EDENIED: the broker wants other keys. */
AIF_MUST_CHECK aif_err aif_client_open(const char *uris,
                                       const aif_curve *curve,
                                       aif_client **out, aif_error *e);
void aif_client_free(aif_client *c); /* nothing in a fork */
/* events have producer and sequence set.  ESTORE: the broker's database
 * failed; may be tried again. */
AIF_MUST_CHECK aif_err aif_client_publish(aif_client *c,
                                          const aif_event *events, size_t n,
                                          uint64_t *offsets, int timeout_ms,
                                          aif_error *e);
/* An answer looks at a part of the log, so that nobody is held up: where
 * *more is true, q has moved on, and asking again goes on from there.
 *
 * One page: adds at most max of the events that q means, in offset order. */
AIF_MUST_CHECK aif_err aif_client_list(aif_client *c, aif_query *q, size_t max,
                                       aif_batch *out, bool *more,
                                       int timeout_ms, aif_error *e);
/* How many they are in this part. */
AIF_MUST_CHECK aif_err aif_client_count(aif_client *c, aif_query *q,
                                        uint64_t *n, bool *more,
                                        int timeout_ms, aif_error *e);
/* (u64 count, str sender) for each sender in this part, as buf.h writes them,
 * by sender; in out, which is emptied first. */
AIF_MUST_CHECK aif_err aif_client_senders(aif_client *c, aif_query *q,
                                          aif_buf *out, bool *more,
                                          int timeout_ms, aif_error *e);
/* The newest offset that q means; 0: none in this part. */
AIF_MUST_CHECK aif_err aif_client_last(aif_client *c, aif_query *q,
                                       uint64_t *offset, bool *more,
                                       int timeout_ms, aif_error *e);
/* The newest offset of all; 0: the log is empty. */
AIF_MUST_CHECK aif_err aif_client_head(aif_client *c, uint64_t *offset,
                                       int timeout_ms, aif_error *e);
/* The newest offset whose event was created before ms since the epoch; 0:
 * none.  EINVAL: that time has not come. */
AIF_MUST_CHECK aif_err aif_client_at(aif_client *c, uint64_t ms,
                                     uint64_t *offset, int timeout_ms,
                                     aif_error *e);
/* The greatest sequence of producer in the log; 0: it has none there. */
AIF_MUST_CHECK aif_err aif_client_sequence(aif_client *c, aif_str producer,
                                           uint64_t *sequence, int timeout_ms,
                                           aif_error *e);
/* Cursors of readers (cursor.h).  Take: *c is there now, in the log of that id.
 * A second call with the same c->holder is the same one. */
AIF_MUST_CHECK aif_err aif_client_take(aif_client *c, aif_cursor *cursor,
                                       uint64_t *log_id, int timeout_ms,
                                       aif_error *e);
/* ECONFLICT: another holds it, or it was deleted; EREPLACED: the log of that id
 * is not there any more. */
AIF_MUST_CHECK aif_err aif_client_move(aif_client *c, const aif_cursor *cursor,
                                       uint64_t log_id, int timeout_ms,
                                       aif_error *e);
/* *n: 1, or 0: there was none. */
AIF_MUST_CHECK aif_err aif_client_forget(aif_client *c,
                                         const aif_cursor *cursor, uint64_t *n,
                                         int timeout_ms, aif_error *e);
/* Those of the namespaces that ns means, as aif_log_cursors has them; in out,
 * which is emptied first. */
AIF_MUST_CHECK aif_err aif_client_cursors(aif_client *c, aif_str ns,
                                          aif_buf *out, int timeout_ms,
                                          aif_error *e);
/* How the broker does, as JSON; in out, which is emptied first. */
AIF_MUST_CHECK aif_err aif_client_status(aif_client *c, aif_buf *out,
                                         int timeout_ms, aif_error *e);
/* A wake-up for whoever subscribed with hints; not durable, never blocks,
 * may be lost. */
AIF_MUST_CHECK aif_err aif_client_hint(aif_client *c, aif_str text,
                                       aif_error *e);

/* One connection for any number of streams, each of the events that any of
 * its patterns matches.  uris and curve as above; with hints, those come once
 * for each stream.  Opens no connection that blocks. */
AIF_MUST_CHECK aif_err aif_sub_open(const char *uris, const aif_curve *curve,
                                    bool hints, aif_sub **out, aif_error *e);
void aif_sub_free(aif_sub *s); /* nothing in a fork */
/* A stream of what n patterns match beyond after (AIF_AFTER_NOW: what is
 * appended once the broker has answered).  Waits for that answer: ETIMEOUT,
 * ERETENTION, EDENIED, EINVAL, EREPLACED where the log is another one than
 * after says.  *stream counts from 1. */
AIF_MUST_CHECK aif_err aif_sub_add(aif_sub *s, const aif_pattern *p, size_t n,
                                   aif_place after, int timeout_ms,
                                   uint64_t *stream, aif_error *e);
/* One that there is not is no error. */
AIF_MUST_CHECK aif_err aif_sub_remove(aif_sub *s, uint64_t stream,
                                      aif_error *e);
/* Wait up to timeout_ms for at least one event; adds 0 or more of one stream
 * to out, each event once, in offset order.  *stream (may be NULL) is which, 0
 * where there is none.  hint, where not NULL and at least AIF_HINT_MAX + 1
 * bytes, gets a hint's text or "" and *hinted says if there was one; a hint
 * ends the wait too, and the next one waits for the next call.
 * An error with *stream set has ended that stream, and no other; its events so
 * far were handed out. */
AIF_MUST_CHECK aif_err aif_sub_next(aif_sub *s, int timeout_ms, aif_batch *out,
                                    uint64_t *stream, char *hint, bool *hinted,
                                    aif_error *e);
/* The place up to which a stream has seen everything; EINVAL: no such stream.
 * Does not wait for a thread that is in aif_sub_next. */
AIF_MUST_CHECK aif_err aif_sub_cursor(aif_sub *s, uint64_t stream,
                                      aif_place *cursor, aif_error *e);
/* Readable when aif_sub_next may have something (zmq's edge-triggered fd:
 * call aif_sub_next(s, 0, ...) until it adds nothing, then wait). */
int aif_sub_fd(aif_sub *s);

#endif
