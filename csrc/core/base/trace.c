#include "base/trace.h"

#include <stdarg.h>
#include <stdio.h>

void
aif_trace_init(aif_trace *t)
{
    pthread_mutex_init(&t->lock, NULL);
}

void
aif_trace_fini(aif_trace *t)
{
    pthread_mutex_destroy(&t->lock);
}

void
aif_trace_say(aif_trace *t, aif_level level, const char *fmt, ...)
{
    aif_trace_line *line;
    va_list ap;

    pthread_mutex_lock(&t->lock);
    if (t->n == AIF_TRACE_LINES) {
        t->dropped++;
    } else {
        line = &t->lines[(t->first + t->n++) % AIF_TRACE_LINES];
        line->level = level;
        va_start(ap, fmt);
        (void)vsnprintf(line->text, sizeof line->text, fmt, ap);
        va_end(ap);
    }
    pthread_mutex_unlock(&t->lock);
}

/* One place for each key, so that who makes up ever new ones fills nothing:
 * the price is a line said twice. */
bool
aif_trace_first(aif_trace *t, uint64_t key)
{
    uint64_t *place = &t->seen[key % AIF_TRACE_SEEN];
    bool first;

    pthread_mutex_lock(&t->lock);
    first = *place != key;
    *place = key;
    pthread_mutex_unlock(&t->lock);
    return first;
}

bool
aif_trace_take(aif_trace *t, aif_trace_line *out)
{
    bool got = true;

    pthread_mutex_lock(&t->lock);
    if (t->n > 0) {
        *out = t->lines[t->first];
        t->first = (t->first + 1) % AIF_TRACE_LINES;
        t->n--;
    } else if (t->dropped > 0) {
        out->level = AIF_WARNING;
        (void)snprintf(out->text, sizeof out->text,
                       "lines that found no room here lost=%llu",
                       (unsigned long long)t->dropped);
        t->dropped = 0;
    } else {
        got = false;
    }
    pthread_mutex_unlock(&t->lock);
    return got;
}
