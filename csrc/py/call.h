/* call.h - calls of the core that several handles have, without the GIL. */
#ifndef AIF_PY_CALL_H
#define AIF_PY_CALL_H

#include "convert.h"

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
