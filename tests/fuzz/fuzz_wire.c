/* fuzz_wire - a frame from anywhere: refused, or the same bytes again. */
#include "net/wire.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
must(int fine)
{
    if (!fine) {
        abort();
    }
}

/* The items of a tail, encoded behind what out has; false: not items. */
static bool
copy_patterns(aif_reader in, aif_buf *out)
{
    aif_pattern p[AIF_PATTERNS_MAX];
    size_t count;
    aif_error e;

    if (aif_wire_get_patterns(&in, 0, AIF_PATTERNS_MAX, p, &count, &e) !=
        AIF_OK) {
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        must(aif_wire_put_pattern(&p[i], out, &e) == AIF_OK);
    }
    return true;
}

static bool
copy_events(aif_reader in, aif_buf *out)
{
    aif_event ev;
    aif_error e;

    while (in.n > 0) {
        if (aif_event_decode(&in, &ev, &e) != AIF_OK) {
            return false;
        }
        must(aif_wire_event_size(&ev) >= 52);
        must(aif_event_encode(&ev, out, &e) == AIF_OK);
    }
    return true;
}

static bool
copy_offsets(aif_reader in, aif_buf *out)
{
    uint64_t offset;
    aif_error e;

    while (in.n > 0) {
        if (aif_read_u64(&in, &offset, &e) != AIF_OK) {
            return false;
        }
        must(aif_buf_u64(out, offset, &e) == AIF_OK);
    }
    return true;
}

static bool
copy_tail(const aif_frame *f, aif_buf *out)
{
    switch (f->kind) {
    case AIF_K_PUBLISH:
    case AIF_K_LISTED:
    case AIF_K_EVENTS:
        return copy_events(f->tail, out);
    case AIF_K_PUBLISHED:
        return copy_offsets(f->tail, out);
    case AIF_K_LIST:
    case AIF_K_COUNT:
    case AIF_K_SUBSCRIBE:
    case AIF_K_TAKE:
    case AIF_K_MOVE:
    case AIF_K_FORGET:
    case AIF_K_CURSORS:
        return copy_patterns(f->tail, out);
    default:
        return f->tail.n == 0;
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    aif_buf out = {0};
    aif_frame f;
    aif_error e;

    if (aif_frame_decode(data, n, &f, &e) == AIF_OK) {
        must(aif_frame_encode(&f, &out, &e) == AIF_OK);
        if (copy_tail(&f, &out)) {
            must(out.n == n && memcmp(out.p, data, n) == 0);
        }
    } else {
        must(e.code == AIF_EPROTO);
    }
    aif_buf_fini(&out);
    return 0;
}
