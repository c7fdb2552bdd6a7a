/* convert.c - Python values to C values and back.
 *
 * Types are checked here, with the name of what was wrong; limits (key of 1
 * to 1,024 bytes...) are event.c's and pattern.c's, once for all languages.
 */
#include "convert.h"

#include <limits.h>

#define EVENT_FIELDS 8 /* of aiflow_ext.Event */

const event_defaults no_defaults = {
    .ns = {"default", 7},
    .sender = {"", 0},
};

int
to_str(PyObject *o, const char *what, aif_str *out)
{
    Py_ssize_t n;

    if (!PyUnicode_Check(o)) {
        PyErr_Format(PyExc_TypeError, "%s must be str, not %.100s", what,
                     Py_TYPE(o)->tp_name);
        return -1;
    }
    out->p = PyUnicode_AsUTF8AndSize(o, &n);
    out->n = (size_t)n;
    return out->p == NULL ? -1 : 0;
}

static int
to_int(PyObject *o, const char *what, long long min, long long max,
       long long *out)
{
    int overflow;

    if (!PyLong_Check(o)) {
        PyErr_Format(PyExc_TypeError, "%s must be int, not %.100s", what,
                     Py_TYPE(o)->tp_name);
        return -1;
    }
    *out = PyLong_AsLongLongAndOverflow(o, &overflow);
    if (overflow != 0 || *out < min || *out > max) {
        PyErr_Format(PyExc_ValueError, "%s must be from %lld to %lld, not %S",
                     what, min, max, o);
        return -1;
    }
    return 0;
}

#define TO_INT(name, type, min, max)                                          \
    int name(PyObject *o, const char *what, type *out)                        \
    {                                                                         \
        long long v;                                                          \
                                                                              \
        if (to_int(o, what, min, max, &v) < 0) {                              \
            return -1;                                                        \
        }                                                                     \
        *out = (type)v;                                                       \
        return 0;                                                             \
    }

/* Offsets and sequences: half of the range, as the databases have it. */
TO_INT(to_u64, uint64_t, 0, INT64_MAX)
TO_INT(to_u32, uint32_t, 0, UINT32_MAX)
TO_INT(to_i64, int64_t, INT64_MIN, INT64_MAX)
TO_INT(to_size, size_t, 0, PY_SSIZE_T_MAX)
TO_INT(to_ms, int, 0, INT_MAX)

int
to_bool(PyObject *o, const char *what, bool *out)
{
    if (o != NULL && !PyBool_Check(o)) {
        PyErr_Format(PyExc_TypeError, "%s must be bool, not %.100s", what,
                     Py_TYPE(o)->tp_name);
        return -1;
    }
    *out = o == Py_True;
    return 0;
}

static int
is_tuple_of(PyObject *o, Py_ssize_t n)
{
    return PyTuple_Check(o) && PyTuple_GET_SIZE(o) == n;
}

static int
tuple_to_pattern(PyObject *o, aif_pattern *out)
{
    out->context = AIF_STR("*");
    if (!is_tuple_of(o, 4) && !is_tuple_of(o, 5)) {
        PyErr_Format(PyExc_TypeError,
                     "a pattern is a tuple (namespace, key, type, sender) or "
                     "(..., context), not %.200R",
                     o);
        return -1;
    }
    if (to_str(PyTuple_GET_ITEM(o, 0), "pattern namespace", &out->ns) < 0 ||
        to_str(PyTuple_GET_ITEM(o, 1), "pattern key", &out->key) < 0 ||
        to_str(PyTuple_GET_ITEM(o, 2), "pattern type", &out->type) < 0 ||
        to_str(PyTuple_GET_ITEM(o, 3), "pattern sender", &out->sender) < 0) {
        return -1;
    }
    return PyTuple_GET_SIZE(o) == 4 ? 0
                                    : to_str(PyTuple_GET_ITEM(o, 4),
                                             "pattern context", &out->context);
}

int
to_pattern(PyObject *o, aif_pattern *buf, const aif_pattern **out)
{
    *out = NULL;
    if (o == NULL || o == Py_None) {
        return 0;
    }
    *out = buf;
    return tuple_to_pattern(o, buf);
}

int
to_patterns(PyObject *o, patterns *out)
{
    *out = (patterns){0};
    out->held = PySequence_Tuple(o);
    if (out->held == NULL) {
        return -1;
    }
    out->n = (size_t)PyTuple_GET_SIZE(out->held);
    out->patterns = PyMem_New(aif_pattern, out->n);
    if (out->patterns == NULL) {
        PyErr_NoMemory();
        goto fail;
    }
    for (size_t i = 0; i < out->n; i++) {
        PyObject *p = PyTuple_GET_ITEM(out->held, (Py_ssize_t)i);
        if (tuple_to_pattern(p, &out->patterns[i]) < 0) {
            goto fail;
        }
    }
    return 0;
fail:
    patterns_fini(out);
    return -1;
}

void
patterns_fini(patterns *in)
{
    PyMem_Free(in->patterns);
    Py_CLEAR(in->held);
    in->patterns = NULL;
}

/* A str, or None for what is meant by leaving it out. */
static int
str_or(PyObject *o, const char *what, aif_str otherwise, aif_str *out)
{
    if (o == Py_None) {
        *out = otherwise;
        return 0;
    }
    return to_str(o, what, out);
}

int
to_defaults(PyObject *ns, PyObject *sender, event_defaults *out)
{
    *out = no_defaults;
    if (ns != NULL && to_str(ns, "namespace", &out->ns) < 0) {
        return -1;
    }
    return sender == NULL ? 0 : to_str(sender, "sender", &out->sender);
}

int
to_event(PyObject *o, const event_defaults *d, aif_event *out)
{
    if (!is_tuple_of(o, EVENT_FIELDS)) {
        PyErr_Format(PyExc_TypeError,
                     "expected an Event, not %.100s: "
                     "Event(\"key\", \"value\")",
                     Py_TYPE(o)->tp_name);
        return -1;
    }
    *out = (aif_event){0};
    if (to_str(PyTuple_GET_ITEM(o, 0), "event key", &out->key) < 0 ||
        to_str(PyTuple_GET_ITEM(o, 1), "event value", &out->value) < 0 ||
        to_str(PyTuple_GET_ITEM(o, 2), "event type", &out->type) < 0 ||
        str_or(PyTuple_GET_ITEM(o, 3), "event context", AIF_STR(""),
               &out->context) < 0 ||
        str_or(PyTuple_GET_ITEM(o, 4), "event namespace", d->ns, &out->ns) <
            0 ||
        str_or(PyTuple_GET_ITEM(o, 5), "event sender", d->sender,
               &out->sender) < 0) {
        return -1;
    }
    if (to_u64(PyTuple_GET_ITEM(o, 6), "event offset", &out->offset) < 0 ||
        to_i64(PyTuple_GET_ITEM(o, 7), "event create_time",
               &out->create_time) < 0) {
        return -1;
    }
    return 0;
}

int
to_events(PyObject *o, const event_defaults *d, events *out)
{
    *out = (events){0};
    out->held = PySequence_Tuple(o);
    if (out->held == NULL) {
        return -1;
    }
    out->n = (size_t)PyTuple_GET_SIZE(out->held);
    if (out->n > AIF_BATCH_MAX) {
        PyErr_Format(PyExc_ValueError, "%zu events in one call, at most %d",
                     out->n, AIF_BATCH_MAX);
        goto fail;
    }
    out->events = PyMem_New(aif_event, out->n);
    if (out->events == NULL) {
        PyErr_NoMemory();
        goto fail;
    }
    for (size_t i = 0; i < out->n; i++) {
        PyObject *ev = PyTuple_GET_ITEM(out->held, (Py_ssize_t)i);
        if (to_event(ev, d, &out->events[i]) < 0) {
            goto fail;
        }
    }
    return 0;
fail:
    events_fini(out);
    return -1;
}

/* identities: a tuple of as many (producer, sequence). */
static int
identify_each(events *in, PyObject *identities)
{
    if ((size_t)PyTuple_GET_SIZE(identities) != in->n) {
        PyErr_Format(PyExc_ValueError, "%zd identities for %zu events",
                     PyTuple_GET_SIZE(identities), in->n);
        return -1;
    }
    for (size_t i = 0; i < in->n; i++) {
        PyObject *id = PyTuple_GET_ITEM(identities, (Py_ssize_t)i);

        if (!is_tuple_of(id, 2)) {
            PyErr_Format(PyExc_TypeError,
                         "expected (producer, sequence), not %.100s",
                         Py_TYPE(id)->tp_name);
            return -1;
        }
        if (to_str(PyTuple_GET_ITEM(id, 0), "producer",
                   &in->events[i].producer) < 0 ||
            to_u64(PyTuple_GET_ITEM(id, 1), "sequence",
                   &in->events[i].sequence) < 0) {
            return -1;
        }
    }
    return 0;
}

int
identify(events *in, PyObject *producer, PyObject *sequence)
{
    aif_str name;
    uint64_t first;

    if (PyTuple_Check(producer)) {
        return identify_each(in, producer);
    }
    if (to_str(producer, "producer", &name) < 0 ||
        to_u64(sequence, "sequence", &first) < 0) {
        return -1;
    }
    for (size_t i = 0; i < in->n; i++) {
        in->events[i].producer = name;
        in->events[i].sequence = first + i;
    }
    return 0;
}

void
events_fini(events *in)
{
    PyMem_Free(in->events);
    Py_CLEAR(in->held);
    in->events = NULL;
}

PyObject *
from_str(aif_str s)
{
    return PyUnicode_DecodeUTF8(s.n == 0 ? "" : s.p, (Py_ssize_t)s.n, NULL);
}

PyObject *
from_offsets(const uint64_t *offsets, size_t n)
{
    PyObject *list = PyList_New((Py_ssize_t)n);

    for (size_t i = 0; list != NULL && i < n; i++) {
        PyObject *v = PyLong_FromUnsignedLongLong(offsets[i]);
        if (v == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, v);
    }
    return list;
}

/* What an event is built after: namespaces, types and senders repeat, and
 * then share one str. */
typedef struct {
    PyObject *tuple; /* NULL: the first */
    const aif_event *ev;
} predecessor;

static PyObject *
shared_str(const predecessor *before, Py_ssize_t place, aif_str had, aif_str s)
{
    if (before->tuple != NULL && aif_str_eq(had, s)) {
        return Py_NewRef(PyTuple_GET_ITEM(before->tuple, place));
    }
    return from_str(s);
}

static PyObject *
context_from(aif_str s)
{
    return s.n == 0 ? Py_NewRef(Py_None) : from_str(s);
}

static int
all_set(PyObject *tuple)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        if (PyTuple_GET_ITEM(tuple, i) == NULL) {
            return 0;
        }
    }
    return 1;
}

static PyObject *
fields_from(const aif_event *ev, const predecessor *before)
{
    PyObject *t = PyTuple_New(EVENT_FIELDS);
    const aif_event *had = before->ev;

    if (t == NULL) {
        return NULL;
    }
    PyTuple_SET_ITEM(t, 0, from_str(ev->key));
    PyTuple_SET_ITEM(t, 1, from_str(ev->value));
    PyTuple_SET_ITEM(t, 2, shared_str(before, 2, had->type, ev->type));
    PyTuple_SET_ITEM(t, 3, context_from(ev->context));
    PyTuple_SET_ITEM(t, 4, shared_str(before, 4, had->ns, ev->ns));
    PyTuple_SET_ITEM(t, 5, shared_str(before, 5, had->sender, ev->sender));
    PyTuple_SET_ITEM(t, 6, PyLong_FromUnsignedLongLong(ev->offset));
    PyTuple_SET_ITEM(t, 7, PyLong_FromLongLong(ev->create_time));
    if (!all_set(t)) {
        Py_CLEAR(t);
    }
    return t;
}

/* tuple.__new__(Event, fields): Event's own __new__ is Python, and costs more
 * than all the rest. */
static PyObject *
from_event(module_state *st, const aif_event *ev, const predecessor *before)
{
    PyObject *fields = fields_from(ev, before);
    PyObject *args = fields == NULL ? NULL : PyTuple_Pack(1, fields);
    PyObject *event = NULL;

    if (args != NULL) {
        event =
            PyTuple_Type.tp_new((PyTypeObject *)st->Event_type, args, NULL);
    }
    Py_XDECREF(args);
    Py_XDECREF(fields);
    return event;
}

PyObject *
from_batch(module_state *st, const aif_batch *b)
{
    PyObject *list = PyList_New((Py_ssize_t)b->n);
    predecessor before = {NULL, b->events};

    for (size_t i = 0; list != NULL && i < b->n; i++) {
        PyObject *t = from_event(st, &b->events[i], &before);
        if (t == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, t);
        before = (predecessor){t, &b->events[i]};
    }
    return list;
}
