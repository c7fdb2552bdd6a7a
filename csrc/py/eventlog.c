/* eventlog.c - aiflow_ext.EventLog: aif_log as a Python object. */
#include "convert.h"

#include "log.h"

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

static PyObject *
append_events(PyObject *self, const events *in)
{
    uint64_t *offsets = PyMem_New(uint64_t, in->n);
    PyObject *list = NULL;
    aif_log *log;
    aif_error e;
    aif_err err;

    if (offsets == NULL) {
        return PyErr_NoMemory();
    }
    log = handle_enter(self);
    if (log == NULL) {
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_log_append(log, in->events, in->n, offsets, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    list = err == AIF_OK ? from_offsets(offsets, in->n)
                         : raise_error(state_of(self), &e);
done:
    PyMem_Free(offsets);
    return list;
}

PyDoc_STRVAR(
    append__doc__,
    "append($self, /, events, producer, sequence, create_time=None)\n--\n\n"
    "Make events durable, all or none, and return their offsets.\n\n"
    "The i-th is (producer, sequence + i); one that the log has already "
    "keeps\n"
    "its offset.  create_time is in ms since the epoch; None: now.");

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
        list = append_events(self, &in);
    }
    events_fini(&in);
    return list;
}

PyDoc_STRVAR(
    read__doc__,
    "read($self, /, after, max=1000, pattern=None)\n--\n\n"
    "At most max of the events beyond offset after that pattern matches.\n\n"
    "Fewer may come (a read stops after 8 MiB); none: there are no more.");

static PyObject *
EventLog_read(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    static const char *const names[] = {"after", "max", "pattern", NULL};
    PyObject *a[3];
    PyObject *list;
    aif_pattern buf;
    const aif_pattern *pattern;
    aif_batch batch = {0};
    uint64_t after;
    size_t max = 1000;
    aif_log *log;
    aif_error e;
    aif_err err;

    if (bind_args("read", names, 1, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_u64(a[0], "after", &after) < 0 ||
        (a[1] != NULL && to_size(a[1], "max", &max) < 0) ||
        to_pattern(a[2], &buf, &pattern) < 0) {
        return NULL;
    }
    log = handle_enter(self);
    if (log == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_log_read(log, pattern, after, max, &batch, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    list = err == AIF_OK ? from_batch(state_of(self), &batch)
                         : raise_error(state_of(self), &e);
    aif_batch_fini(&batch);
    return list;
}

PyDoc_STRVAR(count__doc__,
             "count($self, /, after=0, pattern=None)\n--\n\n"
             "How many events beyond offset after pattern matches.");

static PyObject *
EventLog_count(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"after", "pattern", NULL};
    PyObject *a[2];
    aif_pattern buf;
    const aif_pattern *pattern;
    uint64_t after = 0;
    uint64_t n;
    aif_log *log;
    aif_error e;
    aif_err err;

    if (bind_args("count", names, 0, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        (a[0] != NULL && to_u64(a[0], "after", &after) < 0) ||
        to_pattern(a[1], &buf, &pattern) < 0) {
        return NULL;
    }
    log = handle_enter(self);
    if (log == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_log_count(log, pattern, after, &n, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    return err == AIF_OK ? PyLong_FromUnsignedLongLong(n)
                         : raise_error(state_of(self), &e);
}

PyDoc_STRVAR(head__doc__, "head($self, /)\n--\n\n"
                          "The newest offset; 0 when the log is empty.");

static PyObject *
EventLog_head(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    aif_log *log = handle_enter(self);
    uint64_t offset;
    aif_error e;
    aif_err err;

    if (log == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_log_head(log, &offset, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    return err == AIF_OK ? PyLong_FromUnsignedLongLong(offset)
                         : raise_error(state_of(self), &e);
}

static PyMethodDef EventLog_methods[] = {
    {"append", METHOD(EventLog_append), FAST, append__doc__},
    {"read", METHOD(EventLog_read), FAST, read__doc__},
    {"count", METHOD(EventLog_count), FAST, count__doc__},
    {"head", EventLog_head, METH_NOARGS, head__doc__},
    HANDLE_METHODS,
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(EventLog__doc__,
             "EventLog(uri)\n--\n\n"
             "The durable event log, opened directly, without a broker.\n\n"
             "uri: \"mem:\", \"sqlite:PATH\" or \"postgresql://...\".");

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
