#include "wake/watch.h"

#include "base/guard.h"
#include "base/mem.h"
#include "wake/watch_ops.h"

#include <assert.h>
#include <string.h>

struct aif_watch {
    aif_guard guard;
    const aif_watch_ops *ops;
    void *impl;
    char uri[];
};

static const aif_watch_ops *
watch_ops(const char *uri)
{
    static const aif_watch_ops *const all[] = {&aif_watch_pg,
                                               &aif_watch_sqlite};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strncmp(uri, all[i]->scheme, strlen(all[i]->scheme)) == 0) {
            return all[i];
        }
    }
    return NULL;
}

aif_err
aif_watch_open(const char *uri, const char *channel, aif_watch **out,
               aif_error *e)
{
    aif_err err;
    aif_watch *w;
    const aif_watch_ops *ops = watch_ops(uri);
    const size_t n = strlen(uri) + 1;

    *out = NULL;
    if (ops == NULL) { /* the whole URI may hold a password */
        return aif_fail(e, AIF_EINVAL,
                        "cannot watch %.*s:", (int)strcspn(uri, ":"), uri);
    }
    w = aif_zalloc(sizeof *w + n);
    if (w == NULL) {
        return aif_fail(e, AIF_ENOMEM, "opening a watch");
    }
    memcpy(w->uri, uri, n);
    w->ops = ops;
    w->impl = aif_zalloc(ops->size);
    err = w->impl != NULL ? ops->open(w->impl, w->uri, channel, e)
                          : aif_fail(e, AIF_ENOMEM, "opening a watch");
    if (err != AIF_OK) {
        aif_free(w->impl);
        aif_free(w);
        return err;
    }
    aif_guard_init(&w->guard);
    *out = w;
    return AIF_OK;
}

void
aif_watch_free(aif_watch *w)
{
    if (w == NULL || aif_guard_forked(&w->guard)) {
        return;
    }
    w->ops->close(w->impl);
    aif_free(w->impl);
    aif_free(w);
}

aif_err
aif_watch_poll(aif_watch *w, bool *changed, char *payload, size_t cap,
               aif_error *e)
{
    aif_err err;

    assert(cap > 0);
    *changed = false;
    payload[0] = '\0';
    err = aif_guard_enter(&w->guard, e);
    if (err != AIF_OK) {
        return err;
    }
    *changed = w->ops->look(w->impl);
    w->ops->payload(w->impl, payload, cap);
    aif_guard_leave(&w->guard);
    return AIF_OK;
}

uint64_t
aif_watch_sync(aif_watch *w)
{
    aif_error e;
    uint64_t number;

    if (aif_guard_enter(&w->guard, &e) != AIF_OK) {
        return 0;
    }
    number = w->ops->sync(w->impl);
    aif_guard_leave(&w->guard);
    return number;
}

int
aif_watch_fd(aif_watch *w)
{
    aif_error e;
    int fd;

    if (aif_guard_enter(&w->guard, &e) != AIF_OK) {
        return -1;
    }
    fd = w->ops->fd(w->impl);
    aif_guard_leave(&w->guard);
    return fd;
}

int
aif_watch_interval_ms(const aif_watch *w)
{
    return w->ops->interval_ms;
}
