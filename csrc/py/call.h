/* call.h - calls of the core, made without the GIL.
 *
 * In:  what the call is about, in a struct that f knows.  Out: what came of
 * it, in the same struct.
 */
#ifndef AIF_PY_CALL_H
#define AIF_PY_CALL_H

#include "convert.h"

typedef aif_err core_call(void *core, void *about, aif_error *e);

/* A call ended with err: is it to be made again?  It is where it gave up a wait
 * for others with nothing done (e->busy), until it has waited for a lock as
 * long as the stores do, or the handler of a signal has raised.  *until: 0 at
 * first. */
bool call_again(aif_err err, const aif_error *e, int64_t *until);
/* Call f with what self holds, again where call_again says so.  0, or -1 and an
 * exception. */
int call_core(PyObject *self, core_call *f, void *about);

/* A call that makes events durable. */
typedef struct {
    events in;
    uint64_t *offsets; /* f fills it: one for each event */
    int timeout_ms;
} appending;
/* A list of the offsets. */
PyObject *call_append(PyObject *self, core_call *f, appending *a);

#endif
