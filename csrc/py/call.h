/* call.h - calls of the core that several handles have, without the GIL. */
#ifndef AIF_PY_CALL_H
#define AIF_PY_CALL_H

#include "convert.h"

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
