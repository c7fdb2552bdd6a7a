/* broker.c - aiflow_ext._core.Broker: the server, in a thread of its own.
 *
 * start() makes a plain pthread that runs aif_broker_run: no Python in it, no
 * GIL, no signals.  stop() ends and joins it with the GIL released, and frees
 * what the broker holds (socket, lock file, log); address, error and the last
 * statistics stay readable.
 */
#include "convert.h"

#include "broker/broker.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

typedef struct {
    handle base; /* core is an aif_broker */
    pthread_t thread;
    bool started;
    atomic_bool ended; /* set by the thread, after err and e */
    aif_err err;
    aif_error e;
    PyObject *uri;
    aif_broker_stats stats; /* the last ones read */
} Broker;

static void
broker_drop(void *broker)
{
    aif_broker_free(broker);
}

static PyObject *
Broker_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"bind", "log", "secret", "insecure", NULL};
    aif_broker_options o = {0};
    PyObject *insecure = Py_False;
    aif_broker *broker;
    Broker *self;
    aif_error e;
    aif_err err;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ss|zO!:Broker", names,
                                     &o.bind, &o.log, &o.secret, &PyBool_Type,
                                     &insecure)) {
        return NULL;
    }
    o.insecure = insecure == Py_True;
    Py_BEGIN_ALLOW_THREADS
    err = aif_broker_open(&o, &broker, &e);
    Py_END_ALLOW_THREADS
    if (err != AIF_OK) {
        return raise_error(PyType_GetModuleState(type), &e);
    }
    self = (Broker *)handle_new(type, broker, broker_drop);
    if (self == NULL) {
        return NULL;
    }
    self->uri = PyUnicode_FromString(aif_broker_uri(broker));
    if (self->uri == NULL) {
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void *
broker_serve(void *arg)
{
    Broker *self = arg;

    self->err = aif_broker_run(self->base.core, &self->e);
    atomic_store(&self->ended, true);
    return NULL;
}

/* Signals are for Python's main thread: block all of them in the new one, but
 * those it can only raise itself, which faulthandler wants to see. */
static int
broker_start_thread(Broker *self)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    sigset_t blocked;
    sigset_t before;
    int rc;

    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        sigdelset(&blocked, own[i]);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    rc = pthread_create(&self->thread, NULL, broker_serve, self);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

PyDoc_STRVAR(start__doc__, "start($self, /)\n--\n\n"
                           "Serve, in a thread of the core's own.");

static PyObject *
Broker_start(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Broker *self = (Broker *)op;
    int rc = 0;

    if (handle_enter(op) == NULL) {
        return NULL;
    }
    if (self->started) {
        PyErr_SetString(PyExc_RuntimeError, "this Broker was started already");
    } else {
        rc = broker_start_thread(self);
        self->started = rc == 0;
    }
    handle_leave(op);
    if (rc != 0) {
        errno = rc;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static void
broker_end_thread(Broker *self)
{
    if (self->started) {
        aif_broker_stop(self->base.core);
        Py_BEGIN_ALLOW_THREADS
        pthread_join(self->thread, NULL);
        Py_END_ALLOW_THREADS
    }
    aif_broker_get_stats(self->base.core, &self->stats);
}

PyDoc_STRVAR(stop__doc__, "stop($self, /)\n--\n\n"
                          "End the thread and give socket and log back.");

static PyObject *
Broker_stop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Broker *self = (Broker *)op;

    if (self->base.closing) {
        Py_RETURN_NONE;
    }
    if (handle_enter(op) == NULL) {
        return NULL;
    }
    self->base.closing = true; /* calls that come now see it closed */
    broker_end_thread(self);
    handle_leave(op);
    Py_RETURN_NONE;
}

/* In a forked child there is no thread to join: all of it leaks there. */
static void
Broker_dealloc(PyObject *op)
{
    Broker *self = (Broker *)op;

    if (self->base.core != NULL && self->base.owner == getpid()) {
        broker_end_thread(self);
    }
    Py_CLEAR(self->uri);
    handle_dealloc(op);
}

static PyObject *
Broker_exit(PyObject *op, PyObject *const *Py_UNUSED(args),
            Py_ssize_t Py_UNUSED(nargs))
{
    return Broker_stop(op, NULL);
}

PyDoc_STRVAR(error__doc__,
             "error($self, /)\n--\n\n"
             "What ended the thread; None while it runs or was stopped.");

static PyObject *
Broker_error(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Broker *self = (Broker *)op;

    if (!atomic_load(&self->ended) || self->err == AIF_OK) {
        Py_RETURN_NONE;
    }
    return PyUnicode_DecodeUTF8(self->e.text, (Py_ssize_t)strlen(self->e.text),
                                "replace");
}

PyDoc_STRVAR(stats__doc__,
             "stats($self, /)\n--\n\n"
             "Counters: appended, pushed, turns, rejected, retries, "
             "subscribers, denied, strangers.");

static PyObject *
Broker_stats(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    Broker *self = (Broker *)op;
    aif_broker_stats *s = &self->stats;

    if (!self->base.closing) {
        aif_broker *broker = handle_enter(op);
        if (broker == NULL) {
            return NULL;
        }
        aif_broker_get_stats(broker, s);
        handle_leave(op);
    }
    return Py_BuildValue("{sKsKsKsKsKsKsKsK}", "appended",
                         (unsigned long long)s->appended, "pushed",
                         (unsigned long long)s->pushed, "turns",
                         (unsigned long long)s->turns, "rejected",
                         (unsigned long long)s->rejected, "retries",
                         (unsigned long long)s->retries, "subscribers",
                         (unsigned long long)s->subscribers, "denied",
                         (unsigned long long)s->denied, "strangers",
                         (unsigned long long)s->strangers);
}

PyDoc_STRVAR(
    set_access__doc__,
    "set_access($self, keys, /)\n--\n\n"
    "From now on: [(public, name, [publish], [read])]; None: nobody.\n\n"
    "publish and read are patterns of namespaces.  Only asked over CURVE.");

static PyObject *
Broker_set_access(PyObject *op, PyObject *keys)
{
    aif_access *access = NULL;
    aif_broker *broker;

    if (keys != Py_None && to_access(state_of(op), keys, &access) < 0) {
        return NULL;
    }
    broker = handle_enter(op);
    if (broker == NULL) {
        aif_access_free(access);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    aif_broker_set_access(broker, access);
    Py_END_ALLOW_THREADS
    handle_leave(op);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(status__doc__,
             "status($self, /)\n--\n\n"
             "All that is known of it, as JSON; waits for nothing that the "
             "broker does.");

static PyObject *
Broker_status(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    aif_broker *broker = handle_enter(op);
    PyObject *text = NULL;
    aif_buf out = {0};
    aif_error e;
    aif_err err;

    if (broker == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_broker_status(broker, &out, &e);
    Py_END_ALLOW_THREADS
    if (err != AIF_OK) {
        (void)raise_error(state_of(op), &e);
    } else {
        text = PyUnicode_FromStringAndSize((const char *)out.p,
                                           (Py_ssize_t)out.n);
    }
    aif_buf_fini(&out);
    handle_leave(op);
    return text;
}

static bool
next_line(aif_broker *broker, aif_trace_line *line)
{
    bool got;

    Py_BEGIN_ALLOW_THREADS
    got = aif_broker_trace(broker, line);
    Py_END_ALLOW_THREADS
    return got;
}

PyDoc_STRVAR(trace__doc__,
             "trace($self, /)\n--\n\n"
             "What it had to say since the last call: (level, text), level as "
             "in logging.");

static PyObject *
Broker_trace(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    aif_broker *broker = handle_enter(op);
    PyObject *lines;
    aif_trace_line line;

    if (broker == NULL) {
        return NULL;
    }
    lines = PyList_New(0);
    while (lines != NULL && next_line(broker, &line)) {
        PyObject *one = Py_BuildValue(
            "(iN)", (int)line.level,
            PyUnicode_DecodeUTF8(line.text, (Py_ssize_t)strlen(line.text),
                                 "replace"));

        if (one == NULL || PyList_Append(lines, one) < 0) {
            Py_CLEAR(lines);
        }
        Py_XDECREF(one);
    }
    handle_leave(op);
    return lines;
}

static PyObject *
Broker_uri(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef(((Broker *)op)->uri);
}

PyDoc_STRVAR(close__doc__, "close($self, /)\n--\n\nThe same as stop().");

static PyMethodDef Broker_methods[] = {
    {"start", Broker_start, METH_NOARGS, start__doc__},
    {"stop", Broker_stop, METH_NOARGS, stop__doc__},
    {"close", Broker_stop, METH_NOARGS, close__doc__},
    {"error", Broker_error, METH_NOARGS, error__doc__},
    {"set_access", Broker_set_access, METH_O, set_access__doc__},
    {"stats", Broker_stats, METH_NOARGS, stats__doc__},
    {"status", Broker_status, METH_NOARGS, status__doc__},
    {"trace", Broker_trace, METH_NOARGS, trace__doc__},
    {"__enter__", handle_with, METH_NOARGS, handle_with__doc__},
    {"__exit__", METHOD(Broker_exit), METH_FASTCALL, handle_exit__doc__},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Broker_getset[] = {
    {"uri", Broker_uri, NULL, "The address clients connect to.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(
    Broker__doc__,
    "Broker(bind, log, secret=None, insecure=False)\n--\n\n"
    "The server over a log; bind is \"ipc://PATH\" or \"tcp://HOST:PORT\".\n\n"
    "With its CURVE secret, who comes over tcp needs a key: see set_access.\n"
    "Without, tcp beyond this machine is refused unless insecure.");

static PyType_Slot Broker_slots[] = {
    {Py_tp_new, Broker_new},
    {Py_tp_dealloc, Broker_dealloc},
    {Py_tp_methods, Broker_methods},
    {Py_tp_getset, Broker_getset},
    {Py_tp_doc, (void *)Broker__doc__},
    {0, NULL},
};

static PyType_Spec Broker_spec = {
    .name = "aiflow_ext._core.Broker",
    .basicsize = sizeof(Broker),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Broker_slots,
};

int
broker_init(PyObject *module, module_state *st)
{
    return type_init(module, &Broker_spec, &st->Broker_type);
}
