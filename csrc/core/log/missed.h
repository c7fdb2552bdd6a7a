/* missed.h - were events let go that a reader has not seen?  For log.c alone.
 */
#ifndef AIF_MISSED_H
#define AIF_MISSED_H

#include "log/store.h"

/* ERETENTION, with what was let go and where to begin again: it is beyond
 * q->after (which is not 0), in a namespace that q means. */
AIF_MUST_CHECK aif_err aif_missed(const aif_store_ops *ops, void *store,
                                  const aif_query *q, const aif_head *head,
                                  aif_error *e);

#endif
