/* ask.h - questions about the log, answered at once.
 *
 * In:  LIST, COUNT, SENDERS, LAST, HEAD, AT and SEQUENCE frames.
 * Out: one answer each, about a bounded part of the log; it says how far it
 *      went, and the client asks again for the rest.
 * The broker's thread only; each question asks the store.
 */
#ifndef AIF_ASK_H
#define AIF_ASK_H

#include "broker/head.h"
#include "broker/out.h"

/* What a frame weighs, in events, of the 10,000 that end a turn. */
#define AIF_READ_COST 1000 /* a question with patterns, at least */
#define AIF_LOOK_COST 100  /* HEAD, AT, SEQUENCE; SUBSCRIBE, STATUS */

/* A question looks at no more offsets than EVENTS, and at fewer where its
 * patterns weigh more (aif_query_weight): at 2 * EVENTS * WEIGHT / (WEIGHT +
 * their weight), so that the time is about the same.  A question that looks at
 * so many ends the turn.  Counting events of 200 bytes, one pattern, exact or
 * a prefix: SQLite 19 to 29 ms, PostgreSQL 23 to 27, MariaDB 36; 64 patterns,
 * of exact keys, of exact namespaces, or of up to 5 prefixes: SQLite 18 to 43
 * ms, PostgreSQL 38 to 91, MariaDB 18 to 73 on a machine that was four times
 * as busy (all 50,000 offsets, whatever the patterns: up to 2.4 s, 2.4 and
 * 3.7). */
#define AIF_SCAN_EVENTS 50000
#define AIF_SCAN_WEIGHT 4

typedef struct {
    aif_head_watch *head;
    aif_out *out;
} aif_questions;

/* The log is that of head. */
void aif_ask_init(aif_questions *a, aif_head_watch *head, aif_out *out);
/* Answer f.  *cost: what it weighed. */
AIF_MUST_CHECK aif_err aif_ask_answer(aif_questions *a, const aif_route *to,
                                      const aif_frame *f, size_t *cost,
                                      aif_error *e);

#endif
