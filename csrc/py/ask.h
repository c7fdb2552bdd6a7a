/* ask.h - methods of Client that ask about a part of the log. */
#ifndef AIF_PY_ASK_H
#define AIF_PY_ASK_H

#include "module.h"

#define ASKS(X) X(list) X(count) X(last) X(senders)

#define X(name)                                                               \
    extern const char Client_##name##__doc__[];                               \
    PyObject *Client_##name(PyObject *self, PyObject *const *args,            \
                            Py_ssize_t nargs, PyObject *kwnames);
ASKS(X)
#undef X

#endif
