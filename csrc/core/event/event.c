/* event.c - the happy path: check every field; encode writes three numbers
 * and seven strings, decode reads them back as views and checks them.
 */
#include "event/event.h"

static uint64_t
word_load(const char *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

/* True when some byte of v is 0 or beyond ASCII ("haszero", Bit Twiddling
 * Hacks): the slow look is then needed. */
static bool
word_not_plain(uint64_t v)
{
    const uint64_t ones = 0x0101010101010101u;
    const uint64_t highs = 0x8080808080808080u;

    return (((v - ones) | v) & highs) != 0;
}

/* Bytes of the UTF-8 character at p (n bytes are left); 0: there is none.
 * RFC 3629: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
static size_t
utf8_character(const unsigned char *p, size_t n)
{
    size_t len = p[0] < 0x80 ? 1 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;

    if (len == 1) {
        return 1;
    }
    if (p[0] < 0xC2 || p[0] > 0xF4 || len > n) {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ||
        (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F)) {
        return 0;
    }
    return len;
}

/* The place of the first byte that is NUL or not UTF-8; s.n when all is well.
 * Eight at a time while plain: a 1 MiB value takes 60 us instead of 900. */
static size_t
utf8_first_bad(aif_str s)
{
    size_t i = 0;
    size_t len;

    while (i < s.n) {
        if (s.n - i >= 8 && !word_not_plain(word_load(s.p + i))) {
            i += 8;
            continue;
        }
        if (s.p[i] == '\0') {
            return i;
        }
        len = utf8_character((const unsigned char *)s.p + i, s.n - i);
        if (len == 0) {
            return i;
        }
        i += len;
    }
    return i;
}

aif_err
aif_text_check(const char *what, aif_str s, size_t min, size_t max,
               aif_error *e)
{
    size_t bad;

    if (s.n < min) {
        return aif_fail(e, AIF_EINVAL, "%s is empty: it needs 1 to %zu bytes",
                        what, max);
    }
    if (s.n > max) {
        return aif_fail(e, AIF_EINVAL, "%s has %zu bytes: %zu are the most",
                        what, s.n, max);
    }
    bad = utf8_first_bad(s);
    if (bad == s.n) {
        return AIF_OK;
    }
    return aif_fail(e, AIF_EINVAL,
                    s.p[bad] == '\0' ? "%s has a NUL at byte %zu: leave it out"
                                     : "%s is not UTF-8 at byte %zu",
                    what, bad);
}

/* The strings of an event, in the order of its bytes. */
#define STRINGS(X)                                                            \
    X(ns, "namespace", 1, AIF_NAME_MAX)                                       \
    X(key, "key", 1, AIF_KEY_MAX)                                             \
    X(value, "value", 0, AIF_VALUE_MAX)                                       \
    X(type, "type", 1, AIF_NAME_MAX)                                          \
    X(sender, "sender", 0, AIF_NAME_MAX)                                      \
    X(context, "context", 0, AIF_CONTEXT_MAX)                                 \
    X(producer, "producer", 1, AIF_PRODUCER_MAX)

aif_err
aif_event_check(const aif_event *ev, aif_error *e)
{
    aif_err err = AIF_OK;

#define X(field, what, min, max)                                              \
    if (err == AIF_OK) {                                                      \
        err = aif_text_check(what, ev->field, min, max, e);                   \
    }
    STRINGS(X)
#undef X
    if (err == AIF_OK && ev->sequence > AIF_SEQUENCE_MAX) {
        err = aif_fail(e, AIF_EINVAL, "sequence %llu: %lld is the most",
                       (unsigned long long)ev->sequence,
                       (long long)AIF_SEQUENCE_MAX);
    }
    return err;
}

size_t
aif_event_bytes(const aif_event *ev)
{
    return ev->ns.n + ev->key.n + ev->value.n + ev->type.n + ev->sender.n +
           ev->context.n + ev->producer.n;
}

static aif_err
event_encode(const aif_event *ev, aif_buf *out, aif_error *e)
{
    aif_err err = aif_buf_u64(out, ev->offset, e);

    if (err == AIF_OK) {
        err = aif_buf_u64(out, (uint64_t)ev->create_time, e);
    }
    if (err == AIF_OK) {
        err = aif_buf_u64(out, ev->sequence, e);
    }
#define X(field, what, min, max)                                              \
    if (err == AIF_OK) {                                                      \
        err = aif_buf_str(out, ev->field, e);                                 \
    }
    STRINGS(X)
#undef X
    return err;
}

aif_err
aif_event_encode(const aif_event *ev, aif_buf *out, aif_error *e)
{
    size_t before = out->n;
    aif_err err = event_encode(ev, out, e);

    if (err != AIF_OK) {
        out->n = before;
    }
    return err;
}

static aif_err
event_decode(aif_reader *in, aif_event *ev, aif_error *e)
{
    uint64_t create_time = 0;
    aif_err err = aif_read_u64(in, &ev->offset, e);

    if (err == AIF_OK) {
        err = aif_read_u64(in, &create_time, e);
        ev->create_time = (int64_t)create_time;
    }
    if (err == AIF_OK) {
        err = aif_read_u64(in, &ev->sequence, e);
    }
#define X(field, what, min, max)                                              \
    if (err == AIF_OK) {                                                      \
        err = aif_read_str(in, max, &ev->field, e);                           \
    }
    STRINGS(X)
#undef X
    return err;
}

aif_err
aif_event_decode(aif_reader *in, aif_event *ev, aif_error *e)
{
    aif_reader at = *in; /* moved only past a good event */
    aif_err err;

    *ev = (aif_event){0};
    err = event_decode(&at, ev, e);
    if (err == AIF_OK && aif_event_check(ev, e) != AIF_OK) {
        err = e->code = AIF_EPROTO; /* the same words, a peer's fault */
    }
    if (err == AIF_OK) {
        *in = at;
    } else {
        *ev = (aif_event){0};
    }
    return err;
}
