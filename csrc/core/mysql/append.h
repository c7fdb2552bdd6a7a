/* mysql/append.h - aif_store_ops.append and .purge of mysql/store.c. */
#ifndef AIF_MYSQL_APPEND_H
#define AIF_MYSQL_APPEND_H

#include "mysql/conn.h"

AIF_MUST_CHECK aif_err aif_mysql_append(void *store, const aif_event *events,
                                        size_t n, uint64_t *offsets,
                                        aif_head *before, aif_error *e);
/* mysql/purge.c */
AIF_MUST_CHECK aif_err aif_mysql_purge(void *store, aif_str ns, uint64_t upto,
                                       size_t max, uint64_t *gone,
                                       aif_error *e);

#endif
