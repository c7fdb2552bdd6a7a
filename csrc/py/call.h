/* call.h - calls of the core that several handles have, without the GIL. */
#ifndef AIF_PY_CALL_H
#define AIF_PY_CALL_H

#include "convert.h"

/* A call of the core ended with err: is it to be made again?  It is where it
 * gave up a wait for others, with nothing done (e->busy), unless it has waited
 * for a lock as long as the stores do, or the handler of a signal has raised:
 * then that is the exception.  *until: 0 at first. */
bool call_again(aif_err err, const aif_error *e, int64_t *until);

/* What is asked about, and for how long: f knows its type. */
typedef aif_err number_call(void *core, const void *about, uint64_t *n,
                            aif_error *e);
PyObject *call_number(PyObject *self, number_call *f, const void *about);

/* Make n events durable; f knows what they are in. */
typedef aif_err append_call(void *core, const void *in, uint64_t *offsets,
                            aif_error *e);
PyObject *call_append(PyObject *self, append_call *f, const void *in,
                      size_t n);

#endif
