/* args.c - the arguments of a METH_FASTCALL | METH_KEYWORDS call, by name. */
#include "convert.h"

static int
name_index(const char *const *names, PyObject *name)
{
    for (int i = 0; names[i] != NULL; i++) {
        if (PyUnicode_CompareWithASCIIString(name, names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static int
args_bind_keywords(const char *function, const char *const *names,
                   const call_args *call, PyObject **out)
{
    Py_ssize_t n = call->kwnames ? PyTuple_GET_SIZE(call->kwnames) : 0;

    for (Py_ssize_t k = 0; k < n; k++) {
        PyObject *name = PyTuple_GET_ITEM(call->kwnames, k);
        int i = name_index(names, name);
        if (i < 0 || out[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got %s argument '%U'",
                         function, i < 0 ? "an unexpected" : "a second", name);
            return -1;
        }
        out[i] = call->args[call->nargs + k];
    }
    return 0;
}

int
bind_args(const char *function, const char *const *names, int required,
          const call_args *call, PyObject **out)
{
    int total = 0;

    for (; names[total] != NULL; total++) {
        out[total] = total < call->nargs ? call->args[total] : NULL;
    }
    if (call->nargs > total) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes at most %d arguments, not %zd", function,
                     total, call->nargs);
        return -1;
    }
    if (args_bind_keywords(function, names, call, out) < 0) {
        return -1;
    }
    for (int i = 0; i < required; i++) {
        if (out[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() needs the argument '%s'",
                         function, names[i]);
            return -1;
        }
    }
    return 0;
}
