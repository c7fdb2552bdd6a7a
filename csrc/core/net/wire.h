/* wire.h - frames: what a client and a broker say to each other.
 *
 * In:  a frame's fields, or its bytes.  Out: the other.
 * docs/protocol.md has every byte.  Pure: no I/O, no clock.
 */
#ifndef AIF_WIRE_H
#define AIF_WIRE_H

#include "base/buf.h"
#include "base/err.h"
#include "event/event.h"
#include "event/pattern.h"

#include <stdint.h>

#define AIF_WIRE_MAGIC 0xAF
#define AIF_WIRE_VERSION 4
#define AIF_FRAME_HEAD 12          /* bytes before the fields */
#define AIF_FRAME_MAX (16u << 20)  /* bytes; libzmq drops who sends more */
#define AIF_WINDOW_MAX (16u << 20) /* bytes that may be under way to it */
#define AIF_STATUS_MAX (64u << 10) /* bytes of a STATUSED */

/* What a frame has after its head, in this order.  A tail runs to the end of
 * the frame, so no count of items is ever trusted. */
#define AIF_F_FROM 0x01u      /* u64 */
#define AIF_F_TO 0x02u        /* u64 */
#define AIF_F_MAX 0x04u       /* u32 */
#define AIF_F_FLAG 0x08u      /* u8, 0 or 1 */
#define AIF_F_CODE 0x10u      /* u8, an aif_err, and a string: the sqlstate */
#define AIF_F_TEXT 0x20u      /* string */
#define AIF_F_EVENTS 0x40u    /* tail: events */
#define AIF_F_OFFSETS 0x80u   /* tail: u64 each */
#define AIF_F_PATTERNS 0x100u /* tail: five strings each */
#define AIF_F_COUNTS 0x200u   /* tail: u64 and string, each */
#define AIF_F_HOLDER 0x400u   /* u64, before the tail */
#define AIF_F_CURSORS 0x800u  /* tail: two strings and two u64, each */

#define AIF_KINDS(X)                                                          \
    X(PUBLISH, 0x01, AIF_F_EVENTS)                                            \
    X(LIST, 0x02,                                                             \
      AIF_F_FROM | AIF_F_TO | AIF_F_MAX | AIF_F_FLAG | AIF_F_PATTERNS)        \
    X(COUNT, 0x03, AIF_F_FROM | AIF_F_TO | AIF_F_PATTERNS)                    \
    X(HEAD, 0x04, 0)                                                          \
    X(SUBSCRIBE, 0x05,                                                        \
      AIF_F_FROM | AIF_F_TO | AIF_F_MAX | AIF_F_FLAG | AIF_F_PATTERNS)        \
    X(UNSUBSCRIBE, 0x06, 0)                                                   \
    X(CREDIT, 0x07, AIF_F_FROM | AIF_F_MAX)                                   \
    X(HINT, 0x08, AIF_F_TEXT)                                                 \
    X(PING, 0x09, 0)                                                          \
    X(SENDERS, 0x0A, AIF_F_FROM | AIF_F_TO | AIF_F_PATTERNS)                  \
    X(AT, 0x0B, AIF_F_TO)                                                     \
    X(LAST, 0x0C, AIF_F_FROM | AIF_F_TO | AIF_F_PATTERNS)                     \
    X(SEQUENCE, 0x0D, AIF_F_TEXT)                                             \
    X(STATUS, 0x0E, 0)                                                        \
    X(TAKE, 0x0F, AIF_F_FROM | AIF_F_TEXT | AIF_F_HOLDER | AIF_F_PATTERNS)    \
    X(MOVE, 0x10,                                                             \
      AIF_F_FROM | AIF_F_TO | AIF_F_TEXT | AIF_F_HOLDER | AIF_F_PATTERNS)     \
    X(FORGET, 0x11, AIF_F_TEXT | AIF_F_PATTERNS)                              \
    X(CURSORS, 0x12, AIF_F_PATTERNS)                                          \
    X(PUBLISHED, 0x81, AIF_F_OFFSETS)                                         \
    X(LISTED, 0x82, AIF_F_TO | AIF_F_FLAG | AIF_F_EVENTS)                     \
    X(COUNTED, 0x83, AIF_F_FROM | AIF_F_TO | AIF_F_FLAG)                      \
    X(HEADED, 0x84, AIF_F_FROM | AIF_F_TO | AIF_F_FLAG)                       \
    X(SUBSCRIBED, 0x85, AIF_F_FROM | AIF_F_TO)                                \
    X(EVENTS, 0x86, AIF_F_FROM | AIF_F_TO | AIF_F_EVENTS)                     \
    X(HINTED, 0x88, AIF_F_TEXT)                                               \
    X(PONG, 0x89, 0)                                                          \
    X(COUNTS, 0x8A, AIF_F_FROM | AIF_F_FLAG | AIF_F_COUNTS)                   \
    X(STATUSED, 0x8E, AIF_F_TEXT)                                             \
    X(TAKEN, 0x8F, AIF_F_FROM | AIF_F_TO)                                     \
    X(CURSORED, 0x92, AIF_F_CURSORS)                                          \
    X(ERROR, 0xFF, AIF_F_CODE | AIF_F_TEXT)

typedef enum {
#define X(name, byte, fields) AIF_K_##name = byte,
    AIF_KINDS(X)
#undef X
} aif_kind;

typedef struct {
    aif_kind kind;
    uint64_t id;   /* of the request; an answer has its request's */
    uint64_t from; /* what has patterns: beyond this offset;
                      COUNTED, COUNTS: the rest lies beyond this one;
                      HEADED of LAST: the rest ends here, of HEAD: purged;
                      EVENTS: the cursor before;
                      SUBSCRIBED, TAKEN: the log's id;
                      TAKE: where a new cursor begins, 2^64-1: at the head;
                      MOVE: where it is to be;
                      CREDIT: bytes of EVENTS taken since SUBSCRIBE */
    uint64_t to;   /* LIST, COUNT, SENDERS, LAST: none beyond this offset, 0:
                      to the end; AT: ms since the epoch;
                      SUBSCRIBE: id of the log that `from` is an offset of, 0:
                      not known; MOVE: the same, known;
                      LISTED: everything up to here was looked at;
                      SUBSCRIBED, HEADED, TAKEN: offset; COUNTED: the number;
                      EVENTS: the cursor after */
    uint32_t max;  /* LIST: events; SUBSCRIBE, CREDIT: bytes of EVENTS that
                      may be under way */
    uint8_t flag;  /* SUBSCRIBE: hints too; LIST: what was let go is known;
                      LISTED, COUNTED, HEADED, COUNTS: there is more to look
                      at than was, ask for the rest */
    aif_err code;  /* ERROR */
    aif_str sqlstate;
    aif_str text;    /* ERROR, HINT, HINTED; SEQUENCE: the producer;
                        STATUSED: JSON; TAKE, MOVE, FORGET: a cursor's name */
    uint64_t holder; /* of a cursor: random, and its secret */
    aif_reader tail; /* decoded frames only: read items until it is empty */
} aif_frame;

/* Begin out with f's head and fields; the caller appends the tail.  What out
 * had before is gone. */
AIF_MUST_CHECK aif_err aif_frame_encode(const aif_frame *f, aif_buf *out,
                                        aif_error *e);
/* Read and check head and fields; strings and tail are views into p.  On
 * EPROTO f->id is the sender's, where that much could be read, else 0. */
AIF_MUST_CHECK aif_err aif_frame_decode(const void *p, size_t n, aif_frame *f,
                                        aif_error *e);
/* The frame's kind as a word, for messages. */
const char *aif_kind_name(aif_kind kind);

AIF_MUST_CHECK aif_err aif_wire_put_pattern(const aif_pattern *p, aif_buf *out,
                                            aif_error *e);
AIF_MUST_CHECK aif_err aif_wire_get_pattern(aif_reader *in, aif_pattern *p,
                                            aif_error *e);
/* All patterns of a tail: EPROTO when fewer than min or more than max. */
AIF_MUST_CHECK aif_err aif_wire_get_patterns(aif_reader *in, size_t min,
                                             size_t max, aif_pattern *out,
                                             size_t *n, aif_error *e);
/* No fewer bytes than aif_event_encode writes for ev. */
size_t aif_wire_event_size(const aif_event *ev);

#endif
