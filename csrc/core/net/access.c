#include "net/access.h"

#include "net/curve.h"
#include "event/event.h"
#include "base/mem.h"
#include "event/pattern.h"

#include <stdlib.h>

/* The strings are in the table's one piece of bytes. */
struct aif_grant {
    char public[AIF_CURVE_KEY];
    aif_str name;
    aif_str *patterns; /* those to publish, then those to read */
    size_t n_publish;
    size_t n_read;
};

struct aif_access {
    aif_grant *grants; /* by public key */
    aif_str *patterns;
    char *bytes;
    size_t n;
};

typedef struct {
    size_t patterns;
    size_t bytes;
} space;

static aif_err
key_check_patterns(const aif_str *patterns, size_t n, space *need,
                   aif_error *e)
{
    aif_err err = AIF_OK;

    if (n > AIF_ACCESS_PATTERNS_MAX) {
        return aif_fail(e, AIF_EINVAL, "a key with %zu patterns may have %d",
                        n, AIF_ACCESS_PATTERNS_MAX);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        size_t star = aif_pattern_exact(patterns[i]) ? 0 : 1;

        err = aif_text_check("access file's namespace", patterns[i], 1,
                             AIF_NAME_MAX + star, e);
        need->bytes += patterns[i].n;
    }
    need->patterns += n;
    return err;
}

static aif_err
key_check(const aif_access_key *key, space *need, aif_error *e)
{
    aif_err err =
        aif_text_check("key's name", key->name, 1, AIF_ACCESS_NAME_MAX, e);

    need->bytes += key->name.n;
    if (err == AIF_OK) {
        char what[AIF_ACCESS_NAME_MAX + 32] = "the public key of ";

        memcpy(what + strlen(what), key->name.p, key->name.n);
        err = aif_curve_check(what, key->public, e);
    }
    if (err == AIF_OK) {
        err = key_check_patterns(key->publish, key->n_publish, need, e);
    }
    if (err == AIF_OK) {
        err = key_check_patterns(key->read, key->n_read, need, e);
    }
    return err;
}

static aif_str
text_copy(char **at, aif_str s)
{
    aif_str kept = {*at, s.n};

    memcpy(*at, s.p, s.n);
    *at += s.n;
    return kept;
}

static void
access_fill(aif_access *a, const aif_access_key *keys, size_t n)
{
    aif_str *pattern = a->patterns;
    char *at = a->bytes;

    for (size_t i = 0; i < n; i++) {
        aif_grant *g = &a->grants[i];

        memcpy(g->public, keys[i].public.p, sizeof g->public);
        g->name = text_copy(&at, keys[i].name);
        g->patterns = pattern;
        g->n_publish = keys[i].n_publish;
        g->n_read = keys[i].n_read;
        for (size_t k = 0; k < g->n_publish; k++) {
            *pattern++ = text_copy(&at, keys[i].publish[k]);
        }
        for (size_t k = 0; k < g->n_read; k++) {
            *pattern++ = text_copy(&at, keys[i].read[k]);
        }
    }
}

static int
by_public(const void *a, const void *b)
{
    return memcmp(((const aif_grant *)a)->public,
                  ((const aif_grant *)b)->public, AIF_CURVE_KEY);
}

/* Two people with one key could not be told apart, nor one of them revoked. */
static aif_err
access_sort(aif_access *a, aif_error *e)
{
    qsort(a->grants, a->n, sizeof *a->grants, by_public);
    for (size_t i = 1; i < a->n; i++) {
        const aif_grant *g = &a->grants[i];

        if (by_public(g - 1, g) == 0) {
            return aif_fail(
                e, AIF_EINVAL, "%.*s and %.*s have the same public key",
                (int)g[-1].name.n, g[-1].name.p, (int)g->name.n, g->name.p);
        }
    }
    return AIF_OK;
}

static aif_access *
access_allocate(size_t n, const space *need)
{
    aif_access *a = aif_zalloc(sizeof *a);

    if (a == NULL) {
        return NULL;
    }
    a->n = n;
    a->grants = aif_zalloc((n + 1) * sizeof *a->grants);
    a->patterns = aif_zalloc((need->patterns + 1) * sizeof *a->patterns);
    a->bytes = aif_zalloc(need->bytes + 1);
    if (a->grants == NULL || a->patterns == NULL || a->bytes == NULL) {
        aif_access_free(a);
        return NULL;
    }
    return a;
}

aif_err
aif_access_new(const aif_access_key *keys, size_t n, aif_access **out,
               aif_error *e)
{
    aif_err err = AIF_OK;
    space need = {0};
    aif_access *a;

    *out = NULL;
    if (n > AIF_ACCESS_KEYS_MAX) {
        return aif_fail(e, AIF_EINVAL, "%zu keys: an access file has %d", n,
                        AIF_ACCESS_KEYS_MAX);
    }
    for (size_t i = 0; err == AIF_OK && i < n; i++) {
        err = key_check(&keys[i], &need, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    a = access_allocate(n, &need);
    if (a == NULL) {
        return aif_fail(e, AIF_ENOMEM, "an access table of %zu keys", n);
    }
    access_fill(a, keys, n);
    err = access_sort(a, e);
    if (err != AIF_OK) {
        aif_access_free(a);
        return err;
    }
    *out = a;
    return AIF_OK;
}

void
aif_access_free(aif_access *a)
{
    if (a != NULL) {
        aif_free(a->grants);
        aif_free(a->patterns);
        aif_free(a->bytes);
        aif_free(a);
    }
}

const aif_grant *
aif_access_find(const aif_access *a, aif_str public)
{
    aif_grant key;

    if (a == NULL || public.n != AIF_CURVE_KEY) {
        return NULL;
    }
    memcpy(key.public, public.p, AIF_CURVE_KEY);
    return bsearch(&key, a->grants, a->n, sizeof key, by_public);
}

aif_str
aif_grant_name(const aif_grant *g)
{
    return g->name;
}

/* An event's namespace is no pattern: a star in it is a star. */
bool
aif_grant_publish(const aif_grant *g, aif_str ns)
{
    for (size_t i = 0; i < g->n_publish; i++) {
        if (aif_pattern_field(g->patterns[i], ns)) {
            return true;
        }
    }
    return false;
}

bool
aif_grant_publishes(const aif_grant *g)
{
    return g->n_publish > 0;
}

/* One grant must cover it: `a*` is not made up of `aa*`, `ab*`... */
bool
aif_grant_read(const aif_grant *g, aif_str pattern)
{
    for (size_t i = 0; i < g->n_read; i++) {
        if (aif_pattern_covers(g->patterns[g->n_publish + i], pattern)) {
            return true;
        }
    }
    return false;
}
