/* convert.h - Python values to C values and back.
 *
 * To C: strings are borrowed from the str objects, so what an `events` or
 * `patterns` was made from stays alive, in a tuple of its own, until its fini.
 * Functions that return int give -1 and an exception, or 0.
 */
#ifndef AIF_PY_CONVERT_H
#define AIF_PY_CONVERT_H

#include "module.h"

#include "event/batch.h"
#include "base/buf.h"
#include "net/curve.h"
#include "event/event.h"
#include "event/query.h"

/* Bind the arguments of a METH_FASTCALL | METH_KEYWORDS call to names (ended
 * by NULL); out gets borrowed references, NULL where one was left out. */
typedef struct {
    PyObject *const *args;
    Py_ssize_t nargs;
    PyObject *kwnames;
} call_args;
int bind_args(const char *function, const char *const *names, int required,
              const call_args *call, PyObject **out);

int to_str(PyObject *o, const char *what, aif_str *out);
int to_u64(PyObject *o, const char *what, uint64_t *out);
int to_u32(PyObject *o, const char *what, uint32_t *out);
int to_i64(PyObject *o, const char *what, int64_t *out);
int to_size(PyObject *o, const char *what, size_t *out);
int to_ms(PyObject *o, const char *what, int *out); /* 0 .. INT_MAX */
/* True or False, and nothing that is only as good; NULL is *out = false. */
int to_bool(PyObject *o, const char *what, bool *out);
/* A (namespace, key, type, sender[, context]) tuple; NULL and None are *out = NULL. */
int to_pattern(PyObject *o, aif_pattern *buf, const aif_pattern **out);

/* ns and sender: for events that have None there. */
typedef struct {
    aif_str ns;
    aif_str sender;
} event_defaults;
extern const event_defaults no_defaults; /* "default" and "" */
int to_defaults(PyObject *ns, PyObject *sender, event_defaults *out);
int to_event(PyObject *o, const event_defaults *d, aif_event *out);

typedef struct {
    PyObject *held;
    aif_event *events;
    size_t n;
} events;
/* A sequence of Event. */
int to_events(PyObject *o, const event_defaults *d, events *out);
/* A str, and sequence counts up from the first; or a tuple with a (producer,
 * sequence) for each. */
int identify(events *in, PyObject *producer, PyObject *sequence);
void events_fini(events *in);

typedef struct {
    PyObject *held;
    aif_pattern *patterns;
    size_t n;
} patterns;
int to_patterns(PyObject *o, patterns *out);
void patterns_fini(patterns *in);

/* Which events: which is None (all), one pattern, or a sequence of them;
 * after and upto may be NULL or None: from the oldest, to the newest. */
typedef struct {
    patterns held;
    aif_query q;
} query;
int to_query(PyObject *which, PyObject *after, PyObject *upto, query *out);
void query_fini(query *in);

/* A (server, public, secret) tuple of CURVE keys; NULL and None are *out =
 * NULL. */
int to_curve(PyObject *o, aif_curve *buf, const aif_curve **out);

PyObject *from_str(aif_str s);
/* {text: number} of what aif_client_senders and aif_log_senders give. */
PyObject *from_counts(const aif_buf *counts);
/* [(text, number, number)] of what aif_log_purged gives. */
PyObject *from_purged(const aif_buf *rows);
/* [(text, text, number, number)] of what aif_log_cursors gives. */
PyObject *from_cursors(const aif_buf *rows);
PyObject *from_offsets(const uint64_t *offsets, size_t n);
PyObject *from_batch(module_state *st, const aif_batch *b);

#endif
