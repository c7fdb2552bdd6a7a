/* query.c - a question about the log, which is patterns and offsets, and the
 * answers that are no events. */
#include "convert.h"

/* One pattern is a tuple that begins with a str; patterns are a sequence of
 * such tuples. */
static int
is_pattern(PyObject *o)
{
    return PyTuple_Check(o) && PyTuple_GET_SIZE(o) > 0 &&
           PyUnicode_Check(PyTuple_GET_ITEM(o, 0));
}

static int
to_any_patterns(PyObject *o, patterns *out)
{
    PyObject *one;
    int failed;

    *out = (patterns){0};
    if (o == NULL || o == Py_None) {
        return 0;
    }
    if (!is_pattern(o)) {
        return to_patterns(o, out);
    }
    one = PyTuple_Pack(1, o);
    failed = one == NULL ? -1 : to_patterns(one, out);
    Py_XDECREF(one);
    return failed;
}

static int
to_offset(PyObject *o, const char *what, uint64_t *out)
{
    return o == NULL || o == Py_None ? 0 : to_u64(o, what, out);
}

int
to_query(PyObject *which, PyObject *after, PyObject *upto, query *out)
{
    *out = (query){0};
    if (to_offset(after, "after", &out->q.after) < 0 ||
        to_offset(upto, "upto", &out->q.upto) < 0 ||
        to_any_patterns(which, &out->held) < 0) {
        return -1;
    }
    out->q.patterns = out->held.patterns;
    out->q.n = out->held.n;
    return 0;
}

void
query_fini(query *in)
{
    patterns_fini(&in->held);
}

static int
counts_add(PyObject *dict, uint64_t n, aif_str text)
{
    PyObject *key = from_str(text);
    PyObject *value = PyLong_FromUnsignedLongLong(n);
    int failed =
        key == NULL || value == NULL ? -1 : PyDict_SetItem(dict, key, value);

    Py_XDECREF(key);
    Py_XDECREF(value);
    return failed;
}

PyObject *
from_counts(const aif_buf *counts)
{
    PyObject *dict = PyDict_New();
    aif_reader in = {counts->p, counts->n};
    aif_str text;
    uint64_t n;
    aif_error e;

    while (dict != NULL && in.n > 0) {
        if (aif_read_u64(&in, &n, &e) != AIF_OK ||
            aif_read_str(&in, AIF_NAME_MAX, &text, &e) != AIF_OK) {
            PyErr_SetString(PyExc_ValueError, e.text);
            Py_CLEAR(dict);
        } else if (counts_add(dict, n, text) < 0) {
            Py_CLEAR(dict);
        }
    }
    return dict;
}

static PyObject *
purged_next(aif_reader *in)
{
    uint64_t upto = 0;
    uint64_t n = 0;
    aif_str ns;
    aif_error e;

    if (aif_read_str(in, AIF_NAME_MAX + 1, &ns, &e) != AIF_OK ||
        aif_read_u64(in, &upto, &e) != AIF_OK ||
        aif_read_u64(in, &n, &e) != AIF_OK) {
        PyErr_SetString(PyExc_ValueError, e.text);
        return NULL;
    }
    return Py_BuildValue("(NKK)", from_str(ns), (unsigned long long)upto,
                         (unsigned long long)n);
}

static PyObject *
cursors_next(aif_reader *in)
{
    uint64_t offset = 0;
    uint64_t moved = 0;
    aif_str ns;
    aif_str name;
    aif_error e;

    if (aif_read_str(in, AIF_NAME_MAX + 1, &ns, &e) != AIF_OK ||
        aif_read_str(in, AIF_NAME_MAX, &name, &e) != AIF_OK ||
        aif_read_u64(in, &offset, &e) != AIF_OK ||
        aif_read_u64(in, &moved, &e) != AIF_OK) {
        PyErr_SetString(PyExc_ValueError, e.text);
        return NULL;
    }
    return Py_BuildValue("(NNKK)", from_str(ns), from_str(name),
                         (unsigned long long)offset,
                         (unsigned long long)moved);
}

static PyObject *
from_rows(const aif_buf *rows, PyObject *(*next)(aif_reader *))
{
    PyObject *list = PyList_New(0);
    aif_reader in = {rows->p, rows->n};

    while (list != NULL && in.n > 0) {
        PyObject *row = next(&in);

        if (row == NULL || PyList_Append(list, row) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(row);
    }
    return list;
}

PyObject *
from_purged(const aif_buf *rows)
{
    return from_rows(rows, purged_next);
}

PyObject *
from_cursors(const aif_buf *rows)
{
    return from_rows(rows, cursors_next);
}
