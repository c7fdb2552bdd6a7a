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

#include "batch.h"
#include "err.h"
#include "event.h"
#include "pattern.h"

#include <stdint.h>

#define AIF_PATTERNS_MAX 64
#define AIF_HINT_MAX 255
#define AIF_AFTER_NOW UINT64_MAX

typedef struct aif_client aif_client;
typedef struct aif_sub aif_sub;

/* uri: "ipc://PATH" or "tcp://HOST:PORT".  Opens no connection that blocks:
 * the broker may come later. */
AIF_MUST_CHECK aif_err aif_client_open(const char *uri, aif_client **out,
                                       aif_error *e);
void aif_client_free(aif_client *c); /* nothing in a fork */
/* events have producer and sequence set.  ESTORE: the broker's database
 * failed; may be tried again. */
AIF_MUST_CHECK aif_err aif_client_publish(aif_client *c,
                                          const aif_event *events, size_t n,
                                          uint64_t *offsets, int timeout_ms,
                                          aif_error *e);
AIF_MUST_CHECK aif_err aif_client_list(aif_client *c, const aif_pattern *p,
                                       uint64_t after, size_t max,
                                       aif_batch *out, int timeout_ms,
                                       aif_error *e);
AIF_MUST_CHECK aif_err aif_client_count(aif_client *c, const aif_pattern *p,
                                        uint64_t after, uint64_t *n,
                                        int timeout_ms, aif_error *e);
AIF_MUST_CHECK aif_err aif_client_head(aif_client *c, uint64_t *offset,
                                       int timeout_ms, aif_error *e);
/* A wake-up for whoever subscribed with hints; not durable, never blocks,
 * may be lost. */
AIF_MUST_CHECK aif_err aif_client_hint(aif_client *c, aif_str text,
                                       aif_error *e);

/* Events that any of n patterns matches, beyond after (AIF_AFTER_NOW: those
 * appended once the broker has answered).  Waits for that answer. */
AIF_MUST_CHECK aif_err aif_sub_open(const char *uri, const aif_pattern *p,
                                    size_t n, uint64_t after, bool hints,
                                    int timeout_ms, aif_sub **out,
                                    aif_error *e);
void aif_sub_free(aif_sub *s); /* nothing in a fork */
/* Wait up to timeout_ms for at least one event; adds 0 or more to out, each
 * event once, in offset order.  hint, where not NULL and at least
 * AIF_HINT_MAX + 1 bytes, gets the last hint's text or "" and *hinted says
 * if there was one; a hint ends the wait too. */
AIF_MUST_CHECK aif_err aif_sub_next(aif_sub *s, int timeout_ms, aif_batch *out,
                                    char *hint, bool *hinted, aif_error *e);
/* The offset up to which this subscription has seen everything. */
uint64_t aif_sub_cursor(aif_sub *s);
/* Readable when aif_sub_next may have something (zmq's edge-triggered fd:
 * call aif_sub_next(s, 0, ...) until it adds nothing, then wait). */
int aif_sub_fd(aif_sub *s);

#endif
