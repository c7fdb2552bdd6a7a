#include "call.h"

#include "base/clock.h"
#include "base/guard.h"

/* The wait for a lock begins when our turn has come. */
bool
call_again(aif_err err, const aif_error *e, int64_t *until)
{
    const int64_t now = aif_now_ms();

    if (err == AIF_OK || !e->busy) {
        return false;
    }
    if (err == AIF_ETIMEOUT) {
        *until = 0;
    } else if (*until == 0) {
        *until = now + AIF_LOCK_WAIT_MS - AIF_LOCK_SLICE_MS;
    } else if (now >= *until) {
        return false;
    }
    return PyErr_CheckSignals() == 0;
}

PyObject *
call_number(PyObject *self, number_call *f, const void *about)
{
    void *core = handle_enter(self);
    int64_t until = 0;
    uint64_t n;
    aif_error e;
    aif_err err;

    if (core == NULL) {
        return NULL;
    }
    do {
        Py_BEGIN_ALLOW_THREADS
        err = f(core, about, &n, &e);
        Py_END_ALLOW_THREADS
    } while (call_again(err, &e, &until));
    handle_leave(self);
    return err == AIF_OK ? PyLong_FromUnsignedLongLong(n)
                         : raise_error(state_of(self), &e);
}

PyObject *
call_append(PyObject *self, append_call *f, const void *in, size_t n)
{
    uint64_t *offsets = PyMem_New(uint64_t, n);
    PyObject *list = NULL;
    int64_t until = 0;
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
    do {
        Py_BEGIN_ALLOW_THREADS
        err = f(core, in, offsets, &e);
        Py_END_ALLOW_THREADS
    } while (call_again(err, &e, &until));
    handle_leave(self);
    list = err == AIF_OK ? from_offsets(offsets, n)
                         : raise_error(state_of(self), &e);
done:
    PyMem_Free(offsets);
    return list;
}
