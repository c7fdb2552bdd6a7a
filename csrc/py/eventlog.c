/* eventlog.c - aiflow_ext.EventLog: aif_log as a Python object. */
#include "call.h"

#include "log/log.h"

#include <time.h>

#define FAST (METH_FASTCALL | METH_KEYWORDS)

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

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s:EventLog", names,
                                     &uri)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_log_open(uri, &log, &e);
    if (err == AIF_OK) {
        err = aif_log_hurry(log, &e);
        if (err != AIF_OK) {
            aif_log_free(log);
        }
    }
    Py_END_ALLOW_THREADS
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
append_all(void *log, const void *what, uint64_t *offsets, aif_error *e)
{
    const events *in = what;
    aif_err err = aif_log_append(log, in->events, in->n, offsets, NULL, e);

    for (size_t i = 0; err == AIF_OK && i < in->n; i++) {
        if (offsets[i] == 0) {
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
    events in;

    if (bind_args("append", names, 3, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_events(a[0], &no_defaults, &in) < 0) {
        return NULL;
    }
    if (identify(&in, a[1], a[2]) == 0 && set_create_time(&in, a[3]) == 0) {
        list = call_append(self, append_all, &in, in.n);
    }
    events_fini(&in);
    return list;
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
read_page(PyObject *self, const aif_query *q, size_t max)
{
    aif_log *log = handle_enter(self);
    aif_batch batch = {0};
    int64_t until = 0;
    PyObject *list;
    aif_error e;
    aif_err err;

    if (log == NULL) {
        return NULL;
    }
    do {
        Py_BEGIN_ALLOW_THREADS
        err = aif_log_read(log, q, max, &batch, &e);
        Py_END_ALLOW_THREADS
    } while (call_again(err, &e, &until));
    handle_leave(self);
    list = err == AIF_OK ? from_batch(state_of(self), &batch)
                         : raise_error(state_of(self), &e);
    aif_batch_fini(&batch);
    return list;
}

static PyObject *
EventLog_read(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    static const char *const names[] = {"after", "max",  "patterns",
                                        "upto",  "kept", NULL};
    PyObject *a[5];
    PyObject *list;
    size_t max = 1000;
    bool kept;
    query in;

    if (bind_args("read", names, 1, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        (a[1] != NULL && to_size(a[1], "max", &max) < 0) ||
        to_bool(a[4], "kept", &kept) < 0 ||
        to_query(a[2], a[0], a[3], &in) < 0) {
        return NULL;
    }
    in.q.kept = kept;
    list = read_page(self, &in.q, max);
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
query_number(PyObject *self, const char *function, number_call *f,
             const call_args *call)
{
    PyObject *n;
    query in;

    if (bind_query(function, call, &in) < 0) {
        return NULL;
    }
    n = call_number(self, f, &in.q);
    query_fini(&in);
    return n;
}

static aif_err
count_of(void *log, const void *q, uint64_t *n, aif_error *e)
{
    return aif_log_count(log, q, n, e);
}

PyDoc_STRVAR(count__doc__,
             "count($self, /, after=0, patterns=None, upto=None)\n--\n\n"
             "How many of the events beyond offset after, and not beyond "
             "upto, one of patterns matches.");

static PyObject *
EventLog_count(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    return query_number(self, "count", count_of,
                        &(call_args){args, nargs, kwnames});
}

static aif_err
last_of(void *log, const void *q, uint64_t *n, aif_error *e)
{
    return aif_log_last(log, q, n, e);
}

PyDoc_STRVAR(last__doc__,
             "last($self, /, after=0, patterns=None, upto=None)\n--\n\n"
             "The newest offset of those events; 0: there is none.");

static PyObject *
EventLog_last(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    return query_number(self, "last", last_of,
                        &(call_args){args, nargs, kwnames});
}

PyDoc_STRVAR(senders__doc__,
             "senders($self, /, after=0, patterns=None, upto=None)\n--\n\n"
             "{sender: how many} of those events; at most 10,000 senders.");

/* What f adds to a buffer, as what make makes of it. */
static PyObject *
call_bytes(PyObject *self,
           aif_err (*f)(aif_log *log, const aif_query *q, aif_buf *out,
                        aif_error *e),
           const aif_query *q, PyObject *(*make)(const aif_buf *bytes))
{
    aif_log *log = handle_enter(self);
    aif_buf out = {0};
    int64_t until = 0;
    PyObject *made;
    aif_error e;
    aif_err err;

    if (log == NULL) {
        return NULL;
    }
    do {
        Py_BEGIN_ALLOW_THREADS
        err = f(log, q, &out, &e);
        Py_END_ALLOW_THREADS
    } while (call_again(err, &e, &until));
    handle_leave(self);
    made = err == AIF_OK ? make(&out) : raise_error(state_of(self), &e);
    aif_buf_fini(&out);
    return made;
}

static PyObject *
EventLog_senders(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    PyObject *counts;
    query in;

    if (bind_query("senders", &(call_args){args, nargs, kwnames}, &in) < 0) {
        return NULL;
    }
    counts = call_bytes(self, aif_log_senders, &in.q, from_counts);
    query_fini(&in);
    return counts;
}

static aif_err
sequence_of(void *log, const void *producer, uint64_t *n, aif_error *e)
{
    return aif_log_sequence(log, *(const aif_str *)producer, n, e);
}

PyDoc_STRVAR(sequence__doc__,
             "sequence($self, producer, /)\n--\n\n"
             "The greatest sequence of producer in the log; 0: it has none.");

static PyObject *
EventLog_sequence(PyObject *self, PyObject *producer)
{
    aif_str s;

    return to_str(producer, "producer", &s) < 0
               ? NULL
               : call_number(self, sequence_of, &s);
}

static aif_err
head_of(void *log, const void *none, uint64_t *n, aif_error *e)
{
    aif_head head;
    aif_err err = aif_log_head(log, &head, e);

    (void)none;
    *n = head.offset;
    return err;
}

PyDoc_STRVAR(head__doc__, "head($self, /)\n--\n\n"
                          "The newest offset; 0 when the log is empty.");

static PyObject *
EventLog_head(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return call_number(self, head_of, NULL);
}

static aif_err
offset_at(void *log, const void *ms, uint64_t *n, aif_error *e)
{
    return aif_log_at(log, *(const int64_t *)ms, n, e);
}

PyDoc_STRVAR(at__doc__,
             "at($self, ms, /)\n--\n\n"
             "The newest offset whose event was created before ms since the "
             "epoch; 0: none.");

static PyObject *
EventLog_at(PyObject *self, PyObject *time)
{
    int64_t ms;

    return to_i64(time, "ms", &ms) < 0 ? NULL
                                       : call_number(self, offset_at, &ms);
}

/* Of purge and keep. */
typedef struct {
    aif_str ns;
    uint64_t n;
    size_t max;
} part;

static aif_err
purge(void *log, const void *what, uint64_t *gone, aif_error *e)
{
    const part *p = what;

    return aif_log_purge(log, p->ns, p->n, p->max, gone, e);
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
    part p = {.max = 1000};

    if (bind_args("purge", names, 2, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_str(a[0], "namespace", &p.ns) < 0 ||
        to_u64(a[1], "upto", &p.n) < 0 ||
        (a[2] != NULL && to_size(a[2], "max", &p.max) < 0)) {
        return NULL;
    }
    return call_number(self, purge, &p);
}

static aif_err
keep(void *log, const void *what, uint64_t *upto, aif_error *e)
{
    const part *p = what;

    return aif_log_keep(log, p->ns, p->n, upto, e);
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
    part p = {.max = 0};

    if (bind_args("keep", names, 2, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_str(a[0], "namespace", &p.ns) < 0 || to_u64(a[1], "n", &p.n) < 0) {
        return NULL;
    }
    return call_number(self, keep, &p);
}

static aif_err
purged_of(aif_log *log, const aif_query *none, aif_buf *out, aif_error *e)
{
    (void)none;
    return aif_log_purged(log, out, e);
}

PyDoc_STRVAR(purged__doc__,
             "purged($self, /)\n--\n\n"
             "What was let go: (namespace, upto, how many) for each namespace "
             "of a purge.");

static PyObject *
EventLog_purged(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return call_bytes(self, purged_of, NULL, from_purged);
}

static PyMethodDef EventLog_methods[] = {
    {"append", METHOD(EventLog_append), FAST, append__doc__},
    {"read", METHOD(EventLog_read), FAST, read__doc__},
    {"count", METHOD(EventLog_count), FAST, count__doc__},
    {"last", METHOD(EventLog_last), FAST, last__doc__},
    {"senders", METHOD(EventLog_senders), FAST, senders__doc__},
    {"sequence", EventLog_sequence, METH_O, sequence__doc__},
    {"head", EventLog_head, METH_NOARGS, head__doc__},
    {"at", EventLog_at, METH_O, at__doc__},
    {"purge", METHOD(EventLog_purge), FAST, purge__doc__},
    {"keep", METHOD(EventLog_keep), FAST, keep__doc__},
    {"purged", EventLog_purged, METH_NOARGS, purged__doc__},
    HANDLE_METHODS,
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(EventLog__doc__,
             "EventLog(uri)\n--\n\n"
             "The durable event log, opened directly, without a broker.\n\n"
             "uri: \"mem:\", \"sqlite:PATH\", \"postgresql://...\" or "
             "\"mysql://...\".");

static PyType_Slot EventLog_slots[] = {
    {Py_tp_new, EventLog_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_methods, EventLog_methods},
    {Py_tp_doc, (void *)EventLog__doc__},
    {0, NULL},
};

static PyType_Spec EventLog_spec = {
    .name = "aiflow_ext._core.EventLog",
    .basicsize = sizeof(handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = EventLog_slots,
};

int
eventlog_init(PyObject *module, module_state *st)
{
    return type_init(module, &EventLog_spec, &st->EventLog_type);
}
