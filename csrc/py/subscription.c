/* subscription.c - aiflow_ext._core.Subscription: events, pushed. */
#include "convert.h"

#include "client.h"

#define FAST (METH_FASTCALL | METH_KEYWORDS)

static void
sub_drop(void *sub)
{
    aif_sub_free(sub);
}

static PyObject *
open_sub(PyTypeObject *type, const char *uri, const patterns *p,
         uint64_t after, bool hints, int timeout)
{
    aif_sub *sub;
    aif_error e;
    aif_err err;

    Py_BEGIN_ALLOW_THREADS
    err =
        aif_sub_open(uri, p->patterns, p->n, after, hints, timeout, &sub, &e);
    Py_END_ALLOW_THREADS
    if (err != AIF_OK) {
        return raise_error(PyType_GetModuleState(type), &e);
    }
    return handle_new(type, sub, sub_drop);
}

static PyObject *
Subscription_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"uri",   "patterns",   "after",
                            "hints", "timeout_ms", NULL};
    const char *uri;
    PyObject *pattern_list;
    PyObject *after = Py_None;
    PyObject *self;
    uint64_t from = AIF_AFTER_NOW;
    patterns p;
    int hints = 0;
    int timeout = 1000;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO|Opi:Subscription",
                                     names, &uri, &pattern_list, &after,
                                     &hints, &timeout)) {
        return NULL;
    }
    if (after != Py_None && to_u64(after, "after", &from) < 0) {
        return NULL;
    }
    if (to_patterns(pattern_list, &p) < 0) {
        return NULL;
    }
    self = open_sub(type, uri, &p, from, hints != 0, timeout);
    patterns_fini(&p);
    return self;
}

/* (events, hint) */
static PyObject *
from_next(module_state *st, const aif_batch *batch, const char *hint,
          bool hinted)
{
    PyObject *list = from_batch(st, batch);
    PyObject *text;

    if (list == NULL) {
        return NULL;
    }
    text = hinted ? PyUnicode_DecodeUTF8(hint, (Py_ssize_t)strlen(hint),
                                         "replace")
                  : Py_NewRef(Py_None);
    if (text == NULL) {
        Py_DECREF(list);
        return NULL;
    }
    return Py_BuildValue("(NN)", list, text);
}

PyDoc_STRVAR(
    next__doc__,
    "next($self, /, timeout_ms)\n--\n\n"
    "Wait for at least one event or a hint: (events, hint or None).\n\n"
    "Each event comes once, in offset order; ([], None) when none came in "
    "time.");

static PyObject *
Subscription_next(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    static const char *const names[] = {"timeout_ms", NULL};
    PyObject *a[1];
    PyObject *out;
    aif_batch batch = {0};
    char hint[AIF_HINT_MAX + 1] = "";
    bool hinted = false;
    int timeout;
    aif_sub *sub;
    aif_error e;
    aif_err err;

    if (bind_args("next", names, 1, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_ms(a[0], "timeout_ms", &timeout) < 0) {
        return NULL;
    }
    sub = handle_enter(self);
    if (sub == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_sub_next(sub, timeout, &batch, hint, &hinted, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    out = err == AIF_OK ? from_next(state_of(self), &batch, hint, hinted)
                        : raise_error(state_of(self), &e);
    aif_batch_fini(&batch);
    return out;
}

PyDoc_STRVAR(
    fileno__doc__,
    "fileno($self, /)\n--\n\n"
    "Readable when next() may have something.  Edge-triggered: call next(0)\n"
    "until it gives ([], None) before waiting on it.");

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

static PyObject *
Subscription_cursor(PyObject *self, void *Py_UNUSED(closure))
{
    aif_sub *sub = handle_enter(self);
    uint64_t cursor;

    if (sub == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    cursor = aif_sub_cursor(sub);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    return PyLong_FromUnsignedLongLong(cursor);
}

static PyMethodDef Subscription_methods[] = {
    {"next", METHOD(Subscription_next), FAST, next__doc__},
    {"fileno", Subscription_fileno, METH_NOARGS, fileno__doc__},
    HANDLE_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef Subscription_getset[] = {
    {"cursor", Subscription_cursor, NULL,
     "The offset up to which everything has been seen.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(
    Subscription__doc__,
    "Subscription(uri, patterns, after=None, hints=False, timeout_ms=1000)\n"
    "--\n\n"
    "Events beyond offset after (None: new ones) that a pattern matches.");

static PyType_Slot Subscription_slots[] = {
    {Py_tp_new, Subscription_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_methods, Subscription_methods},
    {Py_tp_getset, Subscription_getset},
    {Py_tp_doc, (void *)Subscription__doc__},
    {0, NULL},
};

static PyType_Spec Subscription_spec = {
    .name = "aiflow_ext._core.Subscription",
    .basicsize = sizeof(handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Subscription_slots,
};

int
subscription_init(PyObject *module, module_state *st)
{
    return type_init(module, &Subscription_spec, &st->Subscription_type);
}
