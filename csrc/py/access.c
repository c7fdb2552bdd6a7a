/* access.c - keys: which of them may do what on a Broker, those of a
 * connection, and the module's functions for them. */
#include "convert.h"

#include "net/access.h"
#include "net/curve.h"

typedef struct {
    PyObject *held; /* a list: it keeps alive what the views point into */
    aif_access_key *keys;
    aif_str *patterns;
    size_t n_patterns; /* used */
} reading;

/* A tuple of o's items, kept alive by r. */
static PyObject *
reading_hold(reading *r, PyObject *o, const char *what)
{
    PyObject *t;

    if (PyUnicode_Check(o)) { /* its letters would be many patterns */
        PyErr_Format(PyExc_TypeError, "%s: a sequence of str, not a str",
                     what);
        return NULL;
    }
    t = PySequence_Tuple(o);
    if (t != NULL && PyList_Append(r->held, t) < 0) {
        Py_CLEAR(t);
    }
    Py_XDECREF(t); /* the list has it */
    return t;
}

static int
reading_take_patterns(reading *r, PyObject *t, const aif_str **out, size_t *n)
{
    *out = &r->patterns[r->n_patterns];
    *n = (size_t)PyTuple_GET_SIZE(t);
    for (size_t i = 0; i < *n; i++) {
        if (to_str(PyTuple_GET_ITEM(t, (Py_ssize_t)i), "namespace",
                   &r->patterns[r->n_patterns++]) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Room for all patterns that held has from its index first on. */
static int
reading_make_room(reading *r)
{
    size_t n = 1;

    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(r->held); i++) {
        n += (size_t)PyTuple_GET_SIZE(PyList_GET_ITEM(r->held, i));
    }
    r->patterns = PyMem_New(aif_str, n);
    if (r->patterns == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* held: all keys; then of each key itself, its publish, its read. */
static int
reading_hold_all(reading *r, PyObject *o)
{
    PyObject *all = reading_hold(r, o, "access");

    for (Py_ssize_t i = 0; all != NULL && i < PyTuple_GET_SIZE(all); i++) {
        PyObject *key = reading_hold(r, PyTuple_GET_ITEM(all, i), "a key");

        if (key != NULL && PyTuple_GET_SIZE(key) != 4) {
            PyErr_SetString(PyExc_TypeError,
                            "a key is (public, name, publish, read)");
            return -1;
        }
        if (key == NULL ||
            reading_hold(r, PyTuple_GET_ITEM(key, 2), "publish") == NULL ||
            reading_hold(r, PyTuple_GET_ITEM(key, 3), "read") == NULL) {
            return -1;
        }
    }
    return all == NULL ? -1 : reading_make_room(r);
}

static int
reading_take_keys(reading *r, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        Py_ssize_t at = 1 + 3 * (Py_ssize_t)i;
        PyObject *key = PyList_GET_ITEM(r->held, at);
        aif_access_key *out = &r->keys[i];

        if (to_str(PyTuple_GET_ITEM(key, 0), "public", &out->public) < 0 ||
            to_str(PyTuple_GET_ITEM(key, 1), "name", &out->name) < 0 ||
            reading_take_patterns(r, PyList_GET_ITEM(r->held, at + 1),
                                  &out->publish, &out->n_publish) < 0 ||
            reading_take_patterns(r, PyList_GET_ITEM(r->held, at + 2),
                                  &out->read, &out->n_read) < 0) {
            return -1;
        }
    }
    return 0;
}

static int
reading_to_access(module_state *st, reading *r, PyObject *o, aif_access **out)
{
    size_t n;
    aif_error e;

    if (reading_hold_all(r, o) < 0) {
        return -1;
    }
    n = (size_t)PyTuple_GET_SIZE(PyList_GET_ITEM(r->held, 0));
    r->keys = PyMem_New(aif_access_key, n + 1);
    if (r->keys == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (reading_take_keys(r, n) < 0) {
        return -1;
    }
    if (aif_access_new(r->keys, n, out, &e) != AIF_OK) {
        raise_error(st, &e);
        return -1;
    }
    return 0;
}

int
to_access(module_state *st, PyObject *o, aif_access **out)
{
    reading r = {.held = PyList_New(0)};
    int rc = -1;

    *out = NULL;
    if (r.held != NULL) {
        rc = reading_to_access(st, &r, o, out);
    }
    PyMem_Free(r.keys);
    PyMem_Free(r.patterns);
    Py_XDECREF(r.held);
    return rc;
}

static int
to_curve_key(PyObject *o, const char *what, char out[static 41])
{
    aif_str s;

    if (to_str(o, what, &s) < 0) {
        return -1;
    }
    if (s.n != 40) {
        PyErr_Format(PyExc_ValueError,
                     "%s has %zu characters: a CURVE key has 40", what, s.n);
        return -1;
    }
    memcpy(out, s.p, 40);
    out[40] = '\0';
    return 0;
}

int
to_curve(PyObject *o, aif_curve *buf, const aif_curve **out)
{
    *out = NULL;
    if (o == NULL || o == Py_None) {
        return 0;
    }
    if (!PyTuple_Check(o) || PyTuple_GET_SIZE(o) != 3) {
        PyErr_SetString(PyExc_TypeError,
                        "curve is a tuple (server, public, secret)");
        return -1;
    }
    *out = buf;
    if (to_curve_key(PyTuple_GET_ITEM(o, 0), "the server's key", buf->server) <
            0 ||
        to_curve_key(PyTuple_GET_ITEM(o, 1), "the public key", buf->public) <
            0) {
        return -1;
    }
    return to_curve_key(PyTuple_GET_ITEM(o, 2), "the secret key", buf->secret);
}

PyDoc_STRVAR(check_access__doc__,
             "check_access($module, keys, /)\n--\n\n"
             "ValueError where Broker.set_access would refuse them.");

static PyObject *
check_access(PyObject *module, PyObject *keys)
{
    aif_access *access;

    if (to_access(PyModule_GetState(module), keys, &access) < 0) {
        return NULL;
    }
    aif_access_free(access);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(curve_keypair__doc__,
             "curve_keypair($module, /)\n--\n\n"
             "A new (public, secret) pair of CURVE keys, as Z85 texts.");

static PyObject *
curve_keypair(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    char public[41];
    char secret[41];
    aif_error e;

    if (aif_curve_pair(public, secret, &e) != AIF_OK) {
        return raise_error(PyModule_GetState(module), &e);
    }
    return Py_BuildValue("(ss)", public, secret);
}

PyDoc_STRVAR(curve_public__doc__,
             "curve_public($module, secret, /)\n--\n\n"
             "The public key that belongs to a secret one.");

static PyObject *
curve_public(PyObject *module, PyObject *secret)
{
    char public[41];
    aif_str text;
    aif_error e;

    if (to_str(secret, "secret", &text) < 0) {
        return NULL;
    }
    if (aif_curve_public(text.p, public, &e) != AIF_OK) { /* has a NUL */
        return raise_error(PyModule_GetState(module), &e);
    }
    return PyUnicode_FromString(public);
}

PyMethodDef access_methods[] = {
    {"check_access", check_access, METH_O, check_access__doc__},
    {"curve_keypair", curve_keypair, METH_NOARGS, curve_keypair__doc__},
    {"curve_public", curve_public, METH_O, curve_public__doc__},
    {NULL, NULL, 0, NULL},
};
