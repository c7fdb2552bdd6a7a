/* subscription.c - aiflow_ext._core.Subscription: events, pushed. */
#include "call.h"

#include "client/client.h"

static void
sub_drop(void *sub)
{
    aif_sub_free(sub);
}

static PyObject *
Subscription_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"uri", "hints", "curve", NULL};
    const char *uri;
    PyObject *hints = Py_False;
    PyObject *keys = NULL;
    aif_curve buf;
    const aif_curve *curve;
    aif_sub *sub;
    aif_error e;
    aif_err err;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s|O!O:Subscription", names,
                                     &uri, &PyBool_Type, &hints, &keys) ||
        to_curve(keys, &buf, &curve) < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_sub_open(uri, curve, hints == Py_True, &sub, &e);
    Py_END_ALLOW_THREADS
    if (err != AIF_OK) {
        return raise_error(PyType_GetModuleState(type), &e);
    }
    return handle_new(type, sub, sub_drop);
}

/* A call about a stream, and its answer. */
typedef struct {
    patterns patterns;
    aif_place after;
    int timeout_ms;
    uint64_t stream;
    aif_place cursor;
} about_stream;

static aif_err
sub_add(void *sub, void *about, aif_error *e)
{
    about_stream *a = about;

    return aif_sub_add(sub, a->patterns.patterns, a->patterns.n, a->after,
                       a->timeout_ms, &a->stream, e);
}

static aif_err
sub_remove(void *sub, void *about, aif_error *e)
{
    const about_stream *a = about;

    return aif_sub_remove(sub, a->stream, e);
}

static aif_err
sub_cursor(void *sub, void *about, aif_error *e)
{
    about_stream *a = about;

    return aif_sub_cursor(sub, a->stream, &a->cursor, e);
}

PyDoc_STRVAR(
    add__doc__,
    "add($self, /, patterns, after, timeout_ms, log_id=0)\n--\n\n"
    "A new stream of the events beyond offset after (None: new ones) that a "
    "pattern\nmatches: its number.\n\n"
    "Where the log has another id than log_id (0: not known), the offset "
    "means nothing\nthere, and it is a ReplacedError.\n\n"
    "Waits for the broker's answer; a thread that is in next() is waited "
    "for.");

static PyObject *
Subscription_add(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    static const char *const names[] = {"patterns", "after", "timeout_ms",
                                        "log_id", NULL};
    PyObject *v[4];
    PyObject *stream = NULL;
    about_stream a = {.after = {.offset = AIF_AFTER_NOW}};

    if (bind_args("add", names, 3, &(call_args){args, nargs, kwnames}, v) <
            0 ||
        (v[1] != Py_None && to_u64(v[1], "after", &a.after.offset) < 0) ||
        (v[3] != NULL && to_u64(v[3], "log_id", &a.after.log_id) < 0) ||
        to_ms(v[2], "timeout_ms", &a.timeout_ms) < 0 ||
        to_patterns(v[0], &a.patterns) < 0) {
        return NULL;
    }
    if (call_core(self, sub_add, &a) == 0) {
        stream = PyLong_FromUnsignedLongLong(a.stream);
    }
    patterns_fini(&a.patterns);
    return stream;
}

PyDoc_STRVAR(remove__doc__,
             "remove($self, stream, /)\n--\n\n"
             "End a stream; one that there is not is no error.");

static PyObject *
Subscription_remove(PyObject *self, PyObject *number)
{
    about_stream a = {0};

    if (to_u64(number, "stream", &a.stream) < 0 ||
        call_core(self, sub_remove, &a) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* A number, or None for 0. */
static PyObject *
from_stream(uint64_t stream)
{
    return stream == 0 ? Py_NewRef(Py_None)
                       : PyLong_FromUnsignedLongLong(stream);
}

/* What one aif_sub_next took. */
typedef struct {
    aif_batch batch;
    uint64_t stream;
    char hint[AIF_HINT_MAX + 1];
    bool hinted;
} taken;

static PyObject *
from_hint(const taken *t)
{
    return t->hinted ? PyUnicode_DecodeUTF8(
                           t->hint, (Py_ssize_t)strlen(t->hint), "replace")
                     : Py_NewRef(Py_None);
}

/* Add the events to the caller's, before a signal's handler can raise: what
 * was taken is taken only once.  NULL or None: to none. */
static int
list_put_into(PyObject *list, PyObject *into)
{
    PyObject *same;

    if (into == NULL || into == Py_None) {
        return 0;
    }
    same = PySequence_InPlaceConcat(into, list);
    Py_XDECREF(same);
    return same == NULL ? -1 : 0;
}

/* (stream, events, hint) */
static PyObject *
from_next(module_state *st, const taken *t, PyObject *into)
{
    PyObject *which = from_stream(t->stream);
    PyObject *list = from_batch(st, &t->batch);
    PyObject *text = from_hint(t);

    if (which != NULL && list != NULL && text != NULL &&
        list_put_into(list, into) == 0) {
        return Py_BuildValue("(NNN)", which, list, text);
    }
    Py_XDECREF(which);
    Py_XDECREF(list);
    Py_XDECREF(text);
    return NULL;
}

/* The exception says which stream it has ended, in `stream`. */
static PyObject *
raise_of_stream(module_state *st, const aif_error *e, uint64_t stream)
{
    PyObject *type;
    PyObject *value;
    PyObject *traceback;
    PyObject *number;

    raise_error(st, e);
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    number = from_stream(stream);
    if (number == NULL ||
        PyObject_SetAttrString(value, "stream", number) < 0) {
        PyErr_Clear();
    }
    Py_XDECREF(number);
    PyErr_Restore(type, value, traceback);
    return NULL;
}

/* Wait up to timeout ms for events of a stream or a hint; t is zeroed, and its
 * batch is the caller's to free.  -1: an exception is set, nothing to free. */
static int
sub_take(PyObject *self, int timeout, taken *t)
{
    aif_sub *sub = handle_enter(self);
    aif_error e;
    aif_err err;

    if (sub == NULL) {
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_sub_next(sub, timeout, &t->batch, &t->stream, t->hint,
                       &t->hinted, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    if (err != AIF_OK) {
        raise_of_stream(state_of(self), &e, t->stream);
        aif_batch_fini(&t->batch);
        return -1;
    }
    return 0;
}

PyDoc_STRVAR(
    next__doc__,
    "next($self, /, timeout_ms, into=None)\n--\n\n"
    "Wait for at least one event or a hint: (stream, events, hint or None).\n"
    "\n"
    "The events are of one stream; each comes once, in offset order; (None, "
    "[],\nNone) when none came in time.  An error whose `stream` is a number "
    "has ended\nthat one and no other.\n"
    "\n"
    "The events are also added to the list or deque into, before the handler "
    "of a\nsignal can raise: a caller that such an exception leaves finds "
    "them there.");

static PyObject *
Subscription_next(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    static const char *const names[] = {"timeout_ms", "into", NULL};
    PyObject *a[2];
    PyObject *out;
    taken t = {0};
    int timeout;

    if (bind_args("next", names, 1, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_ms(a[0], "timeout_ms", &timeout) < 0 ||
        sub_take(self, timeout, &t) < 0) {
        return NULL;
    }
    out = from_next(state_of(self), &t, a[1]);
    aif_batch_fini(&t.batch);
    return out;
}

PyDoc_STRVAR(
    skip__doc__,
    "skip($self, /)\n--\n\n"
    "Like next(0), but makes no event objects: for a reader that only wants "
    "to know\nthat something came, and reads the log itself.\n\n"
    "Return (offset, hint or None); offset is that of the newest event that "
    "was taken, or\n0.");

static PyObject *
Subscription_skip(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    taken t = {0};
    uint64_t offset = 0;

    if (sub_take(self, 0, &t) < 0) {
        return NULL;
    }
    if (t.batch.n > 0) {
        offset = t.batch.events[t.batch.n - 1].offset;
    }
    aif_batch_fini(&t.batch);
    return Py_BuildValue("(KN)", (unsigned long long)offset, from_hint(&t));
}

PyDoc_STRVAR(
    fileno__doc__,
    "fileno($self, /)\n--\n\n"
    "Readable when next() may have something.  Edge-triggered: call next(0)\n"
    "until it gives (None, [], None) before waiting on it.");

static PyObject *
Subscription_fileno(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    aif_sub *sub = handle_enter(self);
    int fd;

    if (sub == NULL) {
        return NULL;
    }
    fd = aif_sub_fd(sub);
    handle_leave(self);
    return PyLong_FromLong(fd);
}

PyDoc_STRVAR(cursor__doc__,
             "cursor($self, stream, /)\n--\n\n"
             "The offset up to which a stream has seen everything.");

static PyObject *
Subscription_cursor(PyObject *self, PyObject *number)
{
    about_stream a = {0};

    if (to_u64(number, "stream", &a.stream) < 0 ||
        call_core(self, sub_cursor, &a) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(a.cursor.offset);
}

PyDoc_STRVAR(log_id__doc__, "log_id($self, stream, /)\n--\n\n"
                            "The id of the log that has the stream's cursor.");

static PyObject *
Subscription_log_id(PyObject *self, PyObject *number)
{
    about_stream a = {0};

    if (to_u64(number, "stream", &a.stream) < 0 ||
        call_core(self, sub_cursor, &a) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(a.cursor.log_id);
}

static PyMethodDef Subscription_methods[] = {
    {"add", METHOD(Subscription_add), FAST, add__doc__},
    {"remove", Subscription_remove, METH_O, remove__doc__},
    {"next", METHOD(Subscription_next), FAST, next__doc__},
    {"skip", Subscription_skip, METH_NOARGS, skip__doc__},
    {"cursor", Subscription_cursor, METH_O, cursor__doc__},
    {"log_id", Subscription_log_id, METH_O, log_id__doc__},
    {"fileno", Subscription_fileno, METH_NOARGS, fileno__doc__},
    HANDLE_METHODS,
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Subscription__doc__,
             "Subscription(uri, hints=False, curve=None)\n--\n\n"
             "A connection for streams of events; one of several brokers at "
             "uri may come\nlater.");

int
subscription_init(PyObject *module, module_state *st)
{
    return handle_init(module, "aiflow_ext._core.Subscription",
                       Subscription_new, Subscription_methods,
                       Subscription__doc__, &st->Subscription_type);
}
