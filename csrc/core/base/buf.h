/* buf.h - bytes that grow, and a reader that cannot run past its end.
 * All multi-byte numbers are little-endian.  Nobody else does pointer maths.
 */
#ifndef AIF_BUF_H
#define AIF_BUF_H

#include "base/err.h"
#include "base/str.h"

#include <stdint.h>

typedef struct {
    uint8_t *p;
    size_t n;
    size_t cap;
} aif_buf;

void aif_buf_fini(aif_buf *b); /* leaves an empty, usable buffer */
AIF_MUST_CHECK aif_err aif_buf_put(aif_buf *b, const void *p, size_t n,
                                   aif_error *e);
AIF_MUST_CHECK aif_err aif_buf_u8(aif_buf *b, uint8_t v, aif_error *e);
AIF_MUST_CHECK aif_err aif_buf_u32(aif_buf *b, uint32_t v, aif_error *e);
AIF_MUST_CHECK aif_err aif_buf_u64(aif_buf *b, uint64_t v, aif_error *e);
/* u32 length, then the bytes. */
AIF_MUST_CHECK aif_err aif_buf_str(aif_buf *b, aif_str s, aif_error *e);

typedef struct {
    const uint8_t *p;
    size_t n; /* bytes left */
} aif_reader;

/* EPROTO when fewer bytes are left than asked for; *out is then zeroed. */
AIF_MUST_CHECK aif_err aif_read_u8(aif_reader *r, uint8_t *out, aif_error *e);
AIF_MUST_CHECK aif_err aif_read_u32(aif_reader *r, uint32_t *out,
                                    aif_error *e);
AIF_MUST_CHECK aif_err aif_read_u64(aif_reader *r, uint64_t *out,
                                    aif_error *e);
/* A view into the reader's bytes; EPROTO also when longer than max. */
AIF_MUST_CHECK aif_err aif_read_str(aif_reader *r, size_t max, aif_str *out,
                                    aif_error *e);

#endif
