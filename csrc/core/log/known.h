/* known.h - is an event that the log had already the one that it had?
 *
 * In:  events, and the offsets that a store gave.  Out: an offset of 0 for
 * each whose identity belongs to another event.  For log.c alone.
 */
#ifndef AIF_KNOWN_H
#define AIF_KNOWN_H

#include "log/store.h"

/* Same namespace, key, type and value; sender and context may change. */
bool aif_known_same(const aif_event *a, const aif_event *b);

/* Compare those at or below before with what lies there. */
AIF_MUST_CHECK aif_err aif_known_compare(const aif_store_ops *ops, void *store,
                                         const aif_event *events, size_t n,
                                         uint64_t *offsets, uint64_t before,
                                         aif_error *e);

#endif
