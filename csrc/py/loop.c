/* loop.c - wait(): one wait over subscriptions, watches and file descriptors.
 */
#include "convert.h"

#include "wake/loop.h"

/* What wait() waits for; held keeps the objects alive, and the first
 * `entered` of them have been entered where they are handles. */
typedef struct {
    PyObject *held;
    aif_source *sources;
    size_t n;
    size_t entered;
} waiting;

static int
is_handle(module_state *st, PyObject *o)
{
    return Py_IS_TYPE(o, st->Subscription_type) ||
           Py_IS_TYPE(o, st->Watch_type);
}

static int
to_source(module_state *st, PyObject *o, aif_source *out)
{
    void *core;

    *out = (aif_source){.fd = -1};
    if (!is_handle(st, o)) {
        out->fd = PyObject_AsFileDescriptor(o);
        return out->fd < 0 ? -1 : 0;
    }
    core = handle_enter(o);
    if (Py_IS_TYPE(o, st->Watch_type)) {
        out->watch = core;
    } else {
        out->sub = core;
    }
    return core == NULL ? -1 : 0;
}

static void
waiting_fini(module_state *st, waiting *w)
{
    for (size_t i = 0; i < w->entered; i++) {
        PyObject *o = PyTuple_GET_ITEM(w->held, (Py_ssize_t)i);
        if (is_handle(st, o)) {
            handle_leave(o);
        }
    }
    PyMem_Free(w->sources);
    Py_CLEAR(w->held);
}

static int
waiting_init(module_state *st, PyObject *sources, waiting *w)
{
    *w = (waiting){0};
    w->held = PySequence_Tuple(sources);
    if (w->held == NULL) {
        return -1;
    }
    w->n = (size_t)PyTuple_GET_SIZE(w->held);
    w->sources = PyMem_New(aif_source, w->n);
    if (w->sources == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (; w->entered < w->n; w->entered++) {
        PyObject *o = PyTuple_GET_ITEM(w->held, (Py_ssize_t)w->entered);
        if (to_source(st, o, &w->sources[w->entered]) < 0) {
            return -1;
        }
    }
    return 0;
}

static PyObject *
wait_on(module_state *st, waiting *w, int timeout)
{
    PyObject *list;
    aif_error e;
    aif_err err;

    Py_BEGIN_ALLOW_THREADS
    err = aif_loop_wait(w->sources, w->n, timeout, &e);
    Py_END_ALLOW_THREADS
    if (err != AIF_OK) {
        return raise_error(st, &e);
    }
    if (PyErr_CheckSignals() < 0) {
        return NULL;
    }
    list = PyList_New((Py_ssize_t)w->n);
    for (size_t i = 0; list != NULL && i < w->n; i++) {
        PyList_SET_ITEM(list, (Py_ssize_t)i,
                        PyBool_FromLong(w->sources[i].ready));
    }
    return list;
}

PyDoc_STRVAR(
    wait__doc__,
    "wait($module, /, sources, timeout_ms)\n--\n\n"
    "Which of sources may have something, after at most timeout_ms.\n\n"
    "A source is a Subscription, a Watch, a file descriptor or an object "
    "with\n"
    "fileno().  A signal ends the wait early, with none ready.");

static PyObject *
core_wait(PyObject *module, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    static const char *const names[] = {"sources", "timeout_ms", NULL};
    module_state *st = PyModule_GetState(module);
    PyObject *a[2];
    PyObject *ready = NULL;
    waiting w;
    int timeout;

    if (bind_args("wait", names, 2, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_ms(a[1], "timeout_ms", &timeout) < 0) {
        return NULL;
    }
    if (waiting_init(st, a[0], &w) == 0) {
        ready = wait_on(st, &w, timeout);
    }
    waiting_fini(st, &w);
    return ready;
}

PyMethodDef loop_methods[] = {
    {"wait", METHOD(core_wait), METH_FASTCALL | METH_KEYWORDS, wait__doc__},
    {NULL, NULL, 0, NULL},
};
