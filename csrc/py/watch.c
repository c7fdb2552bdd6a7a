/* watch.c - aiflow_ext._core.Watch: has somebody else committed? */
#include "convert.h"

#include "wake/watch.h"

#define PAYLOAD_MAX 8192  /* PostgreSQL's own limit is 8000 bytes */
#define PAYLOADS_MAX 1000 /* of one poll; more come with the next */

static void
watch_drop(void *watch)
{
    aif_watch_free(watch);
}

static PyObject *
Watch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"uri", "channel", NULL};
    const char *uri;
    const char *channel;
    aif_watch *watch;
    aif_error e;
    aif_err err;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "ss:Watch", names, &uri,
                                     &channel)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_watch_open(uri, channel, &watch, &e);
    Py_END_ALLOW_THREADS
    if (err != AIF_OK) {
        return raise_error(PyType_GetModuleState(type), &e);
    }
    return handle_new(type, watch, watch_drop);
}

/* One call of the core: 1 when it gave a payload, 0 when not, -1 failed. */
static int
watch_poll_one(PyObject *self, bool *changed, PyObject *payloads)
{
    char payload[PAYLOAD_MAX] = "";
    bool one = false;
    aif_watch *watch = handle_enter(self);
    PyObject *text;
    aif_error e;
    aif_err err;
    int rc;

    if (watch == NULL) {
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_watch_poll(watch, &one, payload, sizeof payload, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    if (err != AIF_OK) {
        raise_error(state_of(self), &e);
        return -1;
    }
    *changed = *changed || one;
    if (payload[0] == '\0') {
        return 0;
    }
    text =
        PyUnicode_DecodeUTF8(payload, (Py_ssize_t)strlen(payload), "replace");
    if (text == NULL) {
        return -1;
    }
    rc = PyList_Append(payloads, text);
    Py_DECREF(text);
    return rc < 0 ? -1 : 1;
}

PyDoc_STRVAR(poll__doc__,
             "poll($self, /)\n--\n\n"
             "(changed, payloads) since the last poll.  Never blocks.");

static PyObject *
Watch_poll(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *payloads = PyList_New(0);
    bool changed = false;
    int more = 1;

    if (payloads == NULL) {
        return NULL;
    }
    for (int i = 0; i < PAYLOADS_MAX && more == 1; i++) {
        more = watch_poll_one(self, &changed, payloads);
    }
    if (more < 0) {
        Py_DECREF(payloads);
        return NULL;
    }
    return Py_BuildValue("(NN)", PyBool_FromLong(changed), payloads);
}

PyDoc_STRVAR(sync__doc__,
             "sync($self, /)\n--\n\n"
             "Wait, at most 2 s, until what was committed before can be "
             "polled.\n\nReturns the number of the connection, from 1: what "
             "was told since an earlier\ncall with the same number is "
             "complete.  0: there is no connection.");

static PyObject *
Watch_sync(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    aif_watch *watch = handle_enter(self);
    uint64_t number;

    if (watch == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    number = aif_watch_sync(watch);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    return PyLong_FromUnsignedLongLong(number);
}

PyDoc_STRVAR(fileno__doc__,
             "fileno($self, /)\n--\n\n"
             "Readable when poll() may say more; -1 when there is no such "
             "thing now.");

static PyObject *
Watch_fileno(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    aif_watch *watch = handle_enter(self);
    int fd;

    if (watch == NULL) {
        return NULL;
    }
    fd = aif_watch_fd(watch);
    handle_leave(self);
    return PyLong_FromLong(fd);
}

PyDoc_STRVAR(interval_ms__doc__, "interval_ms($self, /)\n--\n\n"
                                 "How often to poll() while fileno() is -1.");

static PyObject *
Watch_interval_ms(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    aif_watch *watch = handle_enter(self);
    int ms;

    if (watch == NULL) {
        return NULL;
    }
    ms = aif_watch_interval_ms(watch);
    handle_leave(self);
    return PyLong_FromLong(ms);
}

static PyMethodDef Watch_methods[] = {
    {"poll", Watch_poll, METH_NOARGS, poll__doc__},
    {"sync", Watch_sync, METH_NOARGS, sync__doc__},
    {"fileno", Watch_fileno, METH_NOARGS, fileno__doc__},
    {"interval_ms", Watch_interval_ms, METH_NOARGS, interval_ms__doc__},
    HANDLE_METHODS,
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Watch__doc__,
             "Watch(uri, channel)\n--\n\n"
             "Hints that somebody committed to the database at uri.");

int
watch_init(PyObject *module, module_state *st)
{
    return handle_init(module, "aiflow_ext._core.Watch", Watch_new,
                       Watch_methods, Watch__doc__, &st->Watch_type);
}
