#include "base/buf.h"

#include "base/mem.h"

#include <string.h>

void
aif_buf_fini(aif_buf *b)
{
    aif_free(b->p);
    *b = (aif_buf){0};
}

/* Make room for n more bytes.  Doubling, so n puts cost O(n). */
static aif_err
buf_reserve(aif_buf *b, size_t n, aif_error *e)
{
    size_t cap = b->cap == 0 ? 64 : b->cap;
    uint8_t *p;

    if (n <= b->cap - b->n) {
        return AIF_OK;
    }
    if (n > SIZE_MAX / 2 - b->n) {
        return aif_fail(e, AIF_ENOMEM, "a buffer of %zu + %zu bytes", b->n, n);
    }
    while (cap < b->n + n) {
        cap *= 2;
    }
    p = aif_realloc(b->p, cap);
    if (p == NULL) {
        return aif_fail(e, AIF_ENOMEM, "a buffer of %zu bytes", cap);
    }
    b->p = p;
    b->cap = cap;
    return AIF_OK;
}

aif_err
aif_buf_put(aif_buf *b, const void *p, size_t n, aif_error *e)
{
    aif_err err = buf_reserve(b, n, e);

    if (err == AIF_OK && n > 0) {
        memcpy(b->p + b->n, p, n);
        b->n += n;
    }
    return err;
}

static void
buf_put_le(uint8_t *out, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = (uint8_t)(v >> (8 * i));
    }
}

aif_err
aif_buf_u8(aif_buf *b, uint8_t v, aif_error *e)
{
    return aif_buf_put(b, &v, 1, e);
}

aif_err
aif_buf_u32(aif_buf *b, uint32_t v, aif_error *e)
{
    uint8_t le[4];

    buf_put_le(le, v, sizeof le);
    return aif_buf_put(b, le, sizeof le, e);
}

aif_err
aif_buf_u64(aif_buf *b, uint64_t v, aif_error *e)
{
    uint8_t le[8];

    buf_put_le(le, v, sizeof le);
    return aif_buf_put(b, le, sizeof le, e);
}

aif_err
aif_buf_str(aif_buf *b, aif_str s, aif_error *e)
{
    aif_err err;

    if (s.n > UINT32_MAX) {
        return aif_fail(e, AIF_EINVAL, "a string of %zu bytes", s.n);
    }
    err =
        buf_reserve(b, 4 + s.n, e); /* first, so that a failure adds nothing */
    if (err != AIF_OK) {
        return err;
    }
    err = aif_buf_u32(b, (uint32_t)s.n, e);
    return err != AIF_OK ? err : aif_buf_put(b, s.p, s.n, e);
}

/* Take n bytes off the front, or fail and take nothing. */
static aif_err
reader_take(aif_reader *r, size_t n, const uint8_t **out, aif_error *e)
{
    *out = NULL;
    if (r->n < n) {
        return aif_fail(e, AIF_EPROTO, "cut short: %zu bytes where %zu belong",
                        r->n, n);
    }
    *out = r->p;
    if (n > 0) { /* p may be NULL when there is nothing */
        r->p += n;
        r->n -= n;
    }
    return AIF_OK;
}

static aif_err
reader_read_le(aif_reader *r, size_t n, uint64_t *out, aif_error *e)
{
    const uint8_t *p;
    aif_err err = reader_take(r, n, &p, e);

    *out = 0;
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        *out |= (uint64_t)p[i] << (8 * i);
    }
    return err;
}

aif_err
aif_read_u8(aif_reader *r, uint8_t *out, aif_error *e)
{
    uint64_t v;
    aif_err err = reader_read_le(r, 1, &v, e);

    *out = (uint8_t)v;
    return err;
}

aif_err
aif_read_u32(aif_reader *r, uint32_t *out, aif_error *e)
{
    uint64_t v;
    aif_err err = reader_read_le(r, 4, &v, e);

    *out = (uint32_t)v;
    return err;
}

aif_err
aif_read_u64(aif_reader *r, uint64_t *out, aif_error *e)
{
    return reader_read_le(r, 8, out, e);
}

aif_err
aif_read_str(aif_reader *r, size_t max, aif_str *out, aif_error *e)
{
    aif_reader at = *r; /* moved only when all of it was there */
    const uint8_t *p;
    uint32_t n;
    aif_err err;

    *out = (aif_str){0};
    err = aif_read_u32(&at, &n, e);
    if (err != AIF_OK) {
        return err;
    }
    if (n > max) {
        return aif_fail(e, AIF_EPROTO,
                        "a string of %u bytes where %zu are the most", n, max);
    }
    err = reader_take(&at, n, &p, e);
    if (err == AIF_OK) {
        *out = (aif_str){(const char *)p, n};
        *r = at;
    }
    return err;
}
