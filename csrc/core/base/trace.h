/* trace.h - what a handle has to say to people: a bounded ring of lines.
 *
 * In:  a level and a text.  Out: the same, to whoever drains it; our host
 * logs them.  No I/O, no allocation.  When it is full new lines are counted,
 * and the next drain says how many.  Any thread.
 */
#ifndef AIF_TRACE_H
#define AIF_TRACE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AIF_TRACE_LINES 128
#define AIF_TRACE_TEXT 320
#define AIF_TRACE_SEEN 512 /* things said once are remembered in so many */

typedef enum { /* the numbers of Python's logging */
               AIF_DEBUG = 10,
               AIF_INFO = 20,
               AIF_WARNING = 30,
               AIF_ERROR = 40
} aif_level;

typedef struct {
    aif_level level;
    char text[AIF_TRACE_TEXT];
} aif_trace_line;

typedef struct {
    pthread_mutex_t lock;
    aif_trace_line lines[AIF_TRACE_LINES];
    size_t first;
    size_t n;
    uint64_t dropped; /* since the last drain */
    uint64_t seen[AIF_TRACE_SEEN];
} aif_trace;

void aif_trace_init(aif_trace *t);
void aif_trace_fini(aif_trace *t);
void aif_trace_say(aif_trace *t, aif_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* True the first time that it is asked for key, and again only after others
 * took its place. */
bool aif_trace_first(aif_trace *t, uint64_t key);
/* The oldest line; false when there is none. */
bool aif_trace_take(aif_trace *t, aif_trace_line *out);

#endif
