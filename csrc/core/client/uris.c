#include "client/uris.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static bool
begins(const char *p)
{
    return strncmp(p, "ipc://", 6) == 0 || strncmp(p, "tcp://", 6) == 0;
}

/* Where the address at p ends; *next: where another begins, or NULL. */
static const char *
end_of(const char *p, const char **next)
{
    const char *comma = strchr(p, ',');

    for (; comma != NULL; comma = strchr(comma + 1, ',')) {
        const char *after = comma + 1 + strspn(comma + 1, " ");

        if (begins(after)) {
            *next = after;
            return comma;
        }
    }
    *next = NULL;
    return p + strlen(p);
}

static aif_err
add(aif_uris *out, const char *p, size_t n, aif_error *e)
{
    char *uri = out->uri[out->n];

    if (out->n == AIF_URIS_MAX) {
        return aif_fail(e, AIF_EINVAL, "more than %d addresses", AIF_URIS_MAX);
    }
    if (n > AIF_URI_MAX) {
        return aif_fail(e, AIF_EINVAL,
                        "an address of %zu bytes: %d are the most (%.80s...)",
                        n, AIF_URI_MAX, p);
    }
    memcpy(uri, p, n);
    uri[n] = '\0';
    out->n++;
    return aif_endpoint_check(uri, e);
}

static void
name_all(aif_uris *out)
{
    size_t used = 0;

    for (size_t i = 0; i < out->n && used < sizeof out->names; i++) {
        used += (size_t)snprintf(out->names + used, sizeof out->names - used,
                                 "%s%s", i == 0 ? "" : ", ", out->uri[i]);
    }
}

aif_err
aif_uris_parse(const char *text, aif_uris *out, aif_error *e)
{
    const char *p = text;
    const char *next;
    aif_err err = AIF_OK;

    *out = (aif_uris){0};
    while (err == AIF_OK && p != NULL) {
        const char *end = end_of(p, &next);

        err = add(out, p, (size_t)(end - p), e);
        p = next;
    }
    name_all(out);
    return err;
}
