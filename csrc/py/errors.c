/* errors.c - aif_err to Python exception, in one table. */
#include "module.h"

static const char *const names[AIF_ERR_COUNT] = {
    [AIF_ESTORE] = "StoreError",         [AIF_ECONFLICT] = "ConflictError",
    [AIF_ECORRUPT] = "CorruptError",     [AIF_EPROTO] = "ProtocolError",
    [AIF_ECLOSED] = "ClosedError",       [AIF_EFORKED] = "ForkError",
    [AIF_ERETENTION] = "RetentionError", [AIF_EDENIED] = "AccessError",
    [AIF_EMFILE] = "DescriptorError",    [AIF_EREPLACED] = "ReplacedError",
};

int
errors_init(module_state *st)
{
    PyObject *mod = PyImport_ImportModule("aiflow_ext.errors");

    if (mod == NULL) {
        return -1;
    }
    st->errors[AIF_OK] = Py_NewRef(PyExc_SystemError);
    st->errors[AIF_ENOMEM] = Py_NewRef(PyExc_MemoryError);
    st->errors[AIF_EINVAL] = Py_NewRef(PyExc_ValueError);
    st->errors[AIF_ETIMEOUT] = Py_NewRef(PyExc_TimeoutError);
    for (int i = 0; i < AIF_ERR_COUNT; i++) {
        if (names[i] == NULL) {
            continue;
        }
        st->errors[i] = PyObject_GetAttrString(mod, names[i]);
        if (st->errors[i] == NULL) {
            Py_DECREF(mod);
            return -1;
        }
    }
    Py_DECREF(mod);
    return 0;
}

/* A text of ours may be cut in the middle of a character: replace it. */
static PyObject *
text_of(const aif_error *e)
{
    return PyUnicode_DecodeUTF8(e->text, (Py_ssize_t)strlen(e->text),
                                "replace");
}

PyObject *
raise_error(module_state *st, const aif_error *e)
{
    PyObject *text;
    PyObject *exc;

    if (PyErr_Occurred()) { /* a signal's handler has raised */
        return NULL;
    }
    text = text_of(e);
    if (text == NULL) {
        return NULL;
    }
    if (e->code == AIF_ESTORE) {
        exc = PyObject_CallFunction(st->errors[e->code], "Os", text,
                                    e->sqlstate);
    } else {
        exc = PyObject_CallOneArg(st->errors[e->code], text);
    }
    Py_DECREF(text);
    if (exc != NULL) {
        PyErr_SetObject(st->errors[e->code], exc);
        Py_DECREF(exc);
    }
    return NULL;
}
