/* log.h - the durable event log: append, then read back by offset.
 *
 * In:  events.  Out: the same events, in offset order, without gaps.
 * Any thread of the process that opened it, one inside at a time.
 */
#ifndef AIF_LOG_H
#define AIF_LOG_H

#include "batch.h"
#include "err.h"
#include "event.h"
#include "pattern.h"

typedef struct aif_log aif_log;

/* Open "mem:", "sqlite:PATH" or "postgresql://...".  Makes the schema where
 * it is missing; ECORRUPT when it is another version's.  On failure *out is
 * NULL.  Messages never carry the password of a URI. */
AIF_MUST_CHECK aif_err aif_log_open(const char *uri, aif_log **out,
                                    aif_error *e);

/* Does nothing to NULL, and nothing in a forked child: there it leaks. */
void aif_log_free(aif_log *log);

/* Make n events durable, all or none.  offsets[n] is written on success;
 * an event whose (producer, sequence) is in the log already, or earlier in
 * this call, keeps the offset it has and is not a second event. */
AIF_MUST_CHECK aif_err aif_log_append(aif_log *log, const aif_event *events,
                                      size_t n, uint64_t *offsets,
                                      aif_error *e);

/* Add to out at most max events beyond after that p matches (NULL: all).  It
 * may add fewer than there are (AIF_READ_BYTES), but not none.  A row that
 * cannot be ours, or a gap, is ECORRUPT.  On failure out is as before. */
AIF_MUST_CHECK aif_err aif_log_read(aif_log *log, const aif_pattern *p,
                                    uint64_t after, size_t max, aif_batch *out,
                                    aif_error *e);
AIF_MUST_CHECK aif_err aif_log_count(aif_log *log, const aif_pattern *p,
                                     uint64_t after, uint64_t *n,
                                     aif_error *e);
/* The newest offset; 0 when empty. */
AIF_MUST_CHECK aif_err aif_log_head(aif_log *log, uint64_t *offset,
                                    aif_error *e);

#endif
