/* fuzz_event - an event from anywhere: refused, or checked and the same bytes
 * again.
 */
#include "event/event.h"

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

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    aif_reader in = {data, n};
    aif_buf out = {0};
    aif_event ev;
    aif_error e;

    if (aif_event_decode(&in, &ev, &e) == AIF_OK) {
        must(aif_event_check(&ev, &e) == AIF_OK);
        must(aif_event_encode(&ev, &out, &e) == AIF_OK);
        must(out.n == n - in.n && memcmp(out.p, data, out.n) == 0);
    } else {
        must(e.code == AIF_EPROTO);
        must(in.p == data && in.n == n); /* nothing was taken */
    }
    aif_buf_fini(&out);
    return 0;
}
