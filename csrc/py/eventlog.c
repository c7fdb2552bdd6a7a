/* eventlog.c - aiflow_ext.EventLog: aif_log as a Python object. */
#include "call.h"

#include "log/log.h"

#include <time.h>

static void
log_drop(void *log)
{
    aif_log_free(log);
}

static PyObject *
EventLog_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"uri", NULL};
    const char *uri;
    aif_error e;
    aif_err err;
    aif_log *log;
    int64_t until = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s:EventLog", names,
                                     &uri)) {
        return NULL;
    }
    do {
        Py_BEGIN_ALLOW_THREADS
        err = aif_log_open_hurried(uri, &log, &e);
        Py_END_ALLOW_THREADS
    } while (call_again(err, &e, &until));
    if (err != AIF_OK) {
        return raise_error(PyType_GetModuleState(type), &e);
    }
    return handle_new(type, log, log_drop);
}

static int64_t
now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int
set_create_time(events *in, PyObject *create_time)
{
    int64_t ms = now_ms();

    if (create_time != NULL && create_time != Py_None &&
        to_i64(create_time, "create_time", &ms) < 0) {
        return -1;
    }
    for (size_t i = 0; i < in->n; i++) {
        in->events[i].create_time = ms;
    }
    return 0;
}

/* A second event by an identity that is taken is refused, and said. */
static aif_err
log_append(void *log, void *about, aif_error *e)
{
    const appending *a = about;
    const events *in = &a->in;
    aif_err err = aif_log_append(log, in->events, in->n, a->offsets, NULL, e);

    for (size_t i = 0; err == AIF_OK && i < in->n; i++) {
        if (a->offsets[i] == 0) {
            err = aif_log_conflict(log, &in->events[i], e);
        }
    }
    return err;
}

PyDoc_STRVAR(
    append__doc__,
    "append($self, /, events, producer, sequence, create_time=None)\n--\n\n"
    "Make events durable, all or none, and return their offsets.\n\n"
    "The i-th is (producer, sequence + i); one that the log has already "
    "keeps\n"
    "its offset, and is a ConflictError where it is another event.\n"
    "create_time is in ms since the epoch (None: now); in the log it never "
    "goes back.");

static PyObject *
EventLog_append(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"events", "producer", "sequence",
                                        "create_time", NULL};
    PyObject *a[4];
    PyObject *list = NULL;
    appending x;

    if (bind_args("append", names, 3, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_events(a[0], &no_defaults, &x.in) < 0) {
        return NULL;
    }
    if (identify(&x.in, a[1], a[2]) == 0 &&
        set_create_time(&x.in, a[3]) == 0) {
        list = call_append(self, log_append, &x);
    }
    events_fini(&x.in);
    return list;
}

/* What a call is about, and its answer. */
typedef struct {
    aif_query *q;
    aif_str text; /* a producer or a namespace */
    size_t max;
    int64_t ms;
    uint64_t limit; /* an offset or a number of events */
    uint64_t n;     /* the answer: the same */
    uint64_t log_id;
    aif_cursor cursor;
    aif_batch batch;
    aif_buf bytes;
} asking;

#define LOG_CALL(name, ...)                                                   \
    static aif_err log_##name(void *log, void *about, aif_error *e)           \
    {                                                                         \
        asking *a = about;                                                    \
                                                                              \
        return aif_log_##name(log, __VA_ARGS__, e);                           \
    }

LOG_CALL(read, a->q, a->max, &a->batch)
LOG_CALL(count, a->q, &a->n)
LOG_CALL(last, a->q, &a->n)
LOG_CALL(senders, a->q, &a->bytes)
LOG_CALL(sequence, a->text, &a->n)
LOG_CALL(at, a->ms, &a->n)
LOG_CALL(purge, a->text, a->limit, a->max, &a->n)
LOG_CALL(keep, a->text, a->limit, &a->n)
LOG_CALL(purged, &a->bytes)
LOG_CALL(cursors, &a->bytes)

static aif_err
log_forget(void *log, void *about, aif_error *e)
{
    asking *a = about;
    bool was;
    aif_err err = aif_log_forget(log, &a->cursor, &was, e);

    a->n = was;
    return err;
}

static aif_err
log_head(void *log, void *about, aif_error *e)
{
    asking *a = about;
    aif_head head;
    aif_err err = aif_log_head(log, &head, e);

    a->n = head.offset;
    a->log_id = head.log_id;
    return err;
}

static PyObject *
ask_number(PyObject *self, core_call *f, asking *a)
{
    return call_core(self, f, a) < 0 ? NULL
                                     : PyLong_FromUnsignedLongLong(a->n);
}

PyDoc_STRVAR(
    read__doc__,
    "read($self, /, after, max=1000, patterns=None, upto=None, kept=False)\n"
    "--\n\n"
    "At most max of the events beyond offset after, and not beyond upto, that "
    "one of\npatterns matches (None: all; a tuple: one pattern).\n\n"
    "Fewer may come (a read stops after 8 MiB); none: there are no more.  "
    "Beyond an\noffset where events were let go it is a RetentionError, "
    "unless "
    "kept is true;\nfrom 0 is from the oldest that is kept.");

static PyObject *
EventLog_read(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    static const char *const names[] = {"after", "max",  "patterns",
                                        "upto",  "kept", NULL};
    PyObject *v[5];
    PyObject *list = NULL;
    query in;
    asking a = {.q = &in.q, .max = 1000};
    bool kept;

    if (bind_args("read", names, 1, &(call_args){args, nargs, kwnames}, v) <
            0 ||
        (v[1] != NULL && to_size(v[1], "max", &a.max) < 0) ||
        to_bool(v[4], "kept", &kept) < 0 ||
        to_query(v[2], v[0], v[3], &in) < 0) {
        return NULL;
    }
    in.q.kept = kept;
    if (call_core(self, log_read, &a) == 0) {
        list = from_batch(state_of(self), &a.batch);
    }
    aif_batch_fini(&a.batch);
    query_fini(&in);
    return list;
}

/* after=0, patterns=None, upto=None: the arguments of all the others. */
static int
bind_query(const char *function, const call_args *call, query *in)
{
    static const char *const names[] = {"after", "patterns", "upto", NULL};
    PyObject *a[3];

    return bind_args(function, names, 0, call, a) < 0
               ? -1
               : to_query(a[1], a[0], a[2], in);
}

static PyObject *
ask_query(PyObject *self, const char *function, core_call *f,
          const call_args *call)
{
    PyObject *answer = NULL;
    query in;
    asking a = {.q = &in.q};

    if (bind_query(function, call, &in) < 0) {
        return NULL;
    }
    if (call_core(self, f, &a) == 0) {
        answer = f == log_senders ? from_counts(&a.bytes)
                                  : PyLong_FromUnsignedLongLong(a.n);
    }
    aif_buf_fini(&a.bytes);
    query_fini(&in);
    return answer;
}

PyDoc_STRVAR(count__doc__,
             "count($self, /, after=0, patterns=None, upto=None)\n--\n\n"
             "How many of the events beyond offset after, and not beyond "
             "upto, one of patterns matches.");

static PyObject *
EventLog_count(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    return ask_query(self, "count", log_count,
                     &(call_args){args, nargs, kwnames});
}

PyDoc_STRVAR(last__doc__,
             "last($self, /, after=0, patterns=None, upto=None)\n--\n\n"
             "The newest offset of those events; 0: there is none.");

static PyObject *
EventLog_last(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    return ask_query(self, "last", log_last,
                     &(call_args){args, nargs, kwnames});
}

PyDoc_STRVAR(senders__doc__,
             "senders($self, /, after=0, patterns=None, upto=None)\n--\n\n"
             "{sender: how many} of those events; at most 10,000 senders.");

static PyObject *
EventLog_senders(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    return ask_query(self, "senders", log_senders,
                     &(call_args){args, nargs, kwnames});
}

PyDoc_STRVAR(sequence__doc__,
             "sequence($self, producer, /)\n--\n\n"
             "The greatest sequence of producer in the log; 0: it has none.");

static PyObject *
EventLog_sequence(PyObject *self, PyObject *producer)
{
    asking a = {0};

    return to_str(producer, "producer", &a.text) < 0
               ? NULL
               : ask_number(self, log_sequence, &a);
}

PyDoc_STRVAR(head__doc__, "head($self, /)\n--\n\n"
                          "The newest offset; 0 when the log is empty.");

static PyObject *
EventLog_head(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return ask_number(self, log_head, &(asking){0});
}

PyDoc_STRVAR(head_and_id__doc__,
             "head_and_id($self, /)\n--\n\n"
             "(newest offset, the log's id): another id is another log, in "
             "which offsets mean\nother events.");

static PyObject *
EventLog_head_and_id(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    asking a = {0};

    return call_core(self, log_head, &a) < 0
               ? NULL
               : Py_BuildValue("(KK)", (unsigned long long)a.n,
                               (unsigned long long)a.log_id);
}

PyDoc_STRVAR(at__doc__,
             "at($self, ms, /)\n--\n\n"
             "The newest offset whose event was created before ms since the "
             "epoch; 0: none.");

static PyObject *
EventLog_at(PyObject *self, PyObject *time)
{
    asking a = {0};

    return to_i64(time, "ms", &a.ms) < 0 ? NULL : ask_number(self, log_at, &a);
}

PyDoc_STRVAR(
    purge__doc__,
    "purge($self, /, namespace, upto, max=1000)\n--\n\n"
    "Let the oldest events of namespace (exact, '*', or a prefix 'abc*') go, "
    "at or\nbelow offset upto, at most max of them, and say how many they "
    "were."
    "\n\nFewer than max: there are no more.");

static PyObject *
EventLog_purge(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"namespace", "upto", "max", NULL};
    PyObject *a[3];
    asking p = {.max = 1000};

    if (bind_args("purge", names, 2, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_str(a[0], "namespace", &p.text) < 0 ||
        to_u64(a[1], "upto", &p.limit) < 0 ||
        (a[2] != NULL && to_size(a[2], "max", &p.max) < 0)) {
        return NULL;
    }
    return ask_number(self, log_purge, &p);
}

PyDoc_STRVAR(keep__doc__, "keep($self, /, namespace, n)\n--\n\n"
                          "The upto that lets go all of namespace but its "
                          "newest n; 0: there are no more.");

static PyObject *
EventLog_keep(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    static const char *const names[] = {"namespace", "n", NULL};
    PyObject *a[2];
    asking p = {0};

    if (bind_args("keep", names, 2, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_str(a[0], "namespace", &p.text) < 0 ||
        to_u64(a[1], "n", &p.limit) < 0) {
        return NULL;
    }
    return ask_number(self, log_keep, &p);
}

PyDoc_STRVAR(purged__doc__,
             "purged($self, /)\n--\n\n"
             "What was let go: (namespace, upto, how many) for each namespace "
             "of a purge.");

static PyObject *
EventLog_purged(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *rows = NULL;
    asking a = {0};

    if (call_core(self, log_purged, &a) == 0) {
        rows = from_purged(&a.bytes);
    }
    aif_buf_fini(&a.bytes);
    return rows;
}

PyDoc_STRVAR(cursors__doc__,
             "cursors($self, /)\n--\n\n"
             "All cursors: (namespace, name, offset, ms since the epoch when "
             "it was taken or\nmoved last).");

static PyObject *
EventLog_cursors(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *rows = NULL;
    asking a = {0};

    if (call_core(self, log_cursors, &a) == 0) {
        rows = from_cursors(&a.bytes);
    }
    aif_buf_fini(&a.bytes);
    return rows;
}

PyDoc_STRVAR(forget__doc__,
             "forget($self, /, namespace, name, moved_ms)\n--\n\n"
             "Delete a cursor, unless it was taken or moved after moved_ms, "
             "in ms since the\nepoch; 1, or 0: there was none such.");

static PyObject *
EventLog_forget(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"namespace", "name", "moved_ms", NULL};
    PyObject *a[3];
    asking p = {0};

    if (bind_args("forget", names, 3, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_str(a[0], "namespace", &p.cursor.ns) < 0 ||
        to_str(a[1], "name", &p.cursor.name) < 0 ||
        to_i64(a[2], "moved_ms", &p.cursor.moved_ms) < 0) {
        return NULL;
    }
    return ask_number(self, log_forget, &p);
}

static PyMethodDef EventLog_methods[] = {
    {"append", METHOD(EventLog_append), FAST, append__doc__},
    {"read", METHOD(EventLog_read), FAST, read__doc__},
    {"count", METHOD(EventLog_count), FAST, count__doc__},
    {"last", METHOD(EventLog_last), FAST, last__doc__},
    {"senders", METHOD(EventLog_senders), FAST, senders__doc__},
    {"sequence", EventLog_sequence, METH_O, sequence__doc__},
    {"head", EventLog_head, METH_NOARGS, head__doc__},
    {"head_and_id", EventLog_head_and_id, METH_NOARGS, head_and_id__doc__},
    {"at", EventLog_at, METH_O, at__doc__},
    {"purge", METHOD(EventLog_purge), FAST, purge__doc__},
    {"keep", METHOD(EventLog_keep), FAST, keep__doc__},
    {"purged", EventLog_purged, METH_NOARGS, purged__doc__},
    {"cursors", EventLog_cursors, METH_NOARGS, cursors__doc__},
    {"forget", METHOD(EventLog_forget), FAST, forget__doc__},
    HANDLE_METHODS,
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(EventLog__doc__,
             "EventLog(uri)\n--\n\n"
             "The durable event log, opened directly, without a broker.\n\n"
             "uri: \"mem:\", \"sqlite:PATH\", \"postgresql://...\" or "
             "\"mysql://...\".");

int
eventlog_init(PyObject *module, module_state *st)
{
    return handle_init(module, "aiflow_ext._core.EventLog", EventLog_new,
                       EventLog_methods, EventLog__doc__, &st->EventLog_type);
}
