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

int
call_core(PyObject *self, core_call *f, void *about)
{
    void *core = handle_enter(self);
    int64_t until = 0;
    aif_error e;
    aif_err err;

    if (core == NULL) {
        return -1;
    }
    do {
        Py_BEGIN_ALLOW_THREADS
        err = f(core, about, &e);
        Py_END_ALLOW_THREADS
    } while (call_again(err, &e, &until));
    handle_leave(self);
    if (err != AIF_OK) {
        (void)raise_error(state_of(self), &e);
        return -1;
    }
    return 0;
}

PyObject *
call_append(PyObject *self, core_call *f, appending *a)
{
    PyObject *list = NULL;

    a->offsets = PyMem_New(uint64_t, a->in.n);
    if (a->offsets == NULL) {
        return PyErr_NoMemory();
    }
    if (call_core(self, f, a) == 0) {
        list = from_offsets(a->offsets, a->in.n);
    }
    PyMem_Free(a->offsets);
    return list;
}
