/* missed.h - were events let go that a reader has not seen?  Pure; for log.c,
 * and the broker, whose readers go on.
 */
#ifndef AIF_MISSED_H
#define AIF_MISSED_H

#include "log/store.h"

/* ERETENTION, with what was let go and where to begin again: it is beyond
 * q->after (which is not 0), in a namespace that q means.  rows: those of
 * aif_store_ops.purged.  *known: how many events of such namespaces were gone
 * when it was asked last, 0 at first: where there are no more, all is well. */
AIF_MUST_CHECK aif_err aif_missed(const aif_buf *rows, const aif_query *q,
                                  uint64_t *known, aif_error *e);

#endif
