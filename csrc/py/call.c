#include "call.h"

PyObject *
call_number(PyObject *self, number_call *f, const void *about)
{
    void *core = handle_enter(self);
    uint64_t n;
    aif_error e;
    aif_err err;

    if (core == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = f(core, about, &n, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    return err == AIF_OK ? PyLong_FromUnsignedLongLong(n)
                         : raise_error(state_of(self), &e);
}

PyObject *
call_append(PyObject *self, append_call *f, const void *in, size_t n)
{
    uint64_t *offsets = PyMem_New(uint64_t, n);
    PyObject *list = NULL;
    void *core;
    aif_error e;
    aif_err err;

    if (offsets == NULL) {
        return PyErr_NoMemory();
    }
    core = handle_enter(self);
    if (core == NULL) {
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    err = f(core, in, offsets, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    list = err == AIF_OK ? from_offsets(offsets, n)
                         : raise_error(state_of(self), &e);
done:
    PyMem_Free(offsets);
    return list;
}
