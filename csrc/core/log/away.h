/* away.h - a database that does not answer is waited for once: whoever asks
 * next is told so, for as long as it took to find that out.  A broker has
 * others to serve.
 *
 * In: how a connect ended.  Out: why there is no use in another, yet.
 * A zeroed one knows of nothing.
 */
#ifndef AIF_AWAY_H
#define AIF_AWAY_H

#include "base/err.h"

#include <stdint.h>

typedef struct {
    int64_t until;
    aif_error why;
} aif_away;

/* Before a connect that begins now: AIF_OK, or why it would be in vain. */
AIF_MUST_CHECK aif_err aif_away_check(const aif_away *a, int64_t now,
                                      aif_error *e);
/* After it failed; since: when it began. */
void aif_away_failed(aif_away *a, int64_t since, int64_t now,
                     const aif_error *why);

#endif
