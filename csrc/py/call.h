/* call.h - calls of the core that several handles have, without the GIL. */
#ifndef AIF_PY_CALL_H
#define AIF_PY_CALL_H

#include "convert.h"

/* A call of the core ended with err: is it to be made again?  It is where it
 * gave up a wait for others, with nothing done (e->busy), unless it has waited
 * for a lock as long as the stores do, or the handler of a signal has raised:
 * then that is the exception.  *until: 0 at first. */
bool call_again(aif_err err, const aif_error *e, int64_t *until);

/* What is asked about: a query, a time, a name, nothing. */
typedef aif_err number_call(void *core, const void *about, uint64_t *n,
                            int timeout_ms, aif_error *e);
PyObject *call_number(PyObject *self, number_call *f, const void *about,
                      int timeout_ms);

/* Make events durable. */
typedef aif_err append_call(void *core, const events *in, uint64_t *offsets,
                            int timeout_ms, aif_error *e);
PyObject *call_append(PyObject *self, append_call *f, const events *in,
                      int timeout_ms);

#endif
