/* event.h - a fact: what happened, to what, said by whom.
 *
 * In:  fields.  Out: the same fields, checked; or their bytes, for wire and
 * disk (docs/protocol.md has every byte).  Pure: no I/O, no clock.
 */
#ifndef AIF_EVENT_H
#define AIF_EVENT_H

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

#include <stdint.h>

#define AIF_KEY_MAX 1024 /* bytes; a key has at least 1 */
#define AIF_NAME_MAX 255 /* namespace, type, sender */
#define AIF_CONTEXT_MAX 1024
#define AIF_VALUE_MAX (1u << 20)
#define AIF_PRODUCER_MAX 64         /* producer has at least 1 */
#define AIF_BATCH_MAX 10000         /* events in one append or publish */
#define AIF_BATCH_BYTES (64u << 20) /* of their strings, together */
#define AIF_SEQUENCE_MAX INT64_MAX  /* what an SQL bigint holds */
#define AIF_HINT_MAX 255            /* bytes of a wake-up's text */

typedef struct {
    uint64_t offset;     /* place in the log, from 1; 0: not in it yet */
    int64_t create_time; /* ms since the epoch, set by the broker */
    aif_str ns;          /* namespace, "default" */
    aif_str key;
    aif_str value;
    aif_str type;     /* "UNDEFINED" */
    aif_str sender;   /* may be empty */
    aif_str context;  /* empty: no context */
    aif_str producer; /* (producer, sequence) is the event's identity */
    uint64_t sequence;
} aif_event;

/* One text: min to max bytes, UTF-8, no NUL.  EINVAL names it by what. */
AIF_MUST_CHECK aif_err aif_text_check(const char *what, aif_str s, size_t min,
                                      size_t max, aif_error *e);

/* Every field: limits, UTF-8, NUL.  EINVAL names it and what was wrong. */
AIF_MUST_CHECK aif_err aif_event_check(const aif_event *ev, aif_error *e);

/* Of all its strings. */
size_t aif_event_bytes(const aif_event *ev);

/* Append ev's bytes to out. */
AIF_MUST_CHECK aif_err aif_event_encode(const aif_event *ev, aif_buf *out,
                                        aif_error *e);

/* Read one event; its strings are views into the reader's bytes.
 * EPROTO: cut, oversized, or against a limit. */
AIF_MUST_CHECK aif_err aif_event_decode(aif_reader *in, aif_event *ev,
                                        aif_error *e);

#endif
