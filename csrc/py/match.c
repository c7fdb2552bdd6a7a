/* match.c - aiflow_ext._core.Match: which subscriptions does an event touch?
 *
 * Pure and without a lock of its own: the GIL stays held, and is its lock.
 */
#include "convert.h"

#include "event/match.h"

typedef struct {
    PyObject_HEAD
    aif_match *match;
} Match;

static PyObject *
Match_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    Match *self;
    aif_error e;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Match", names)) {
        return NULL;
    }
    self = (Match *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (aif_match_new(&self->match, &e) != AIF_OK) {
        Py_DECREF(self);
        return raise_error(PyType_GetModuleState(type), &e);
    }
    return (PyObject *)self;
}

static void
Match_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    aif_match_free(((Match *)op)->match);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(add__doc__,
             "add($self, /, pattern, id)\n--\n\n"
             "Let pattern find id.  An id may have many patterns.");

static PyObject *
Match_add(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    static const char *const names[] = {"pattern", "id", NULL};
    PyObject *a[2];
    aif_pattern buf;
    const aif_pattern *pattern;
    uint64_t id;
    aif_error e;

    if (bind_args("add", names, 2, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_pattern(a[0], &buf, &pattern) < 0 || to_u64(a[1], "id", &id) < 0) {
        return NULL;
    }
    if (pattern == NULL) {
        PyErr_SetString(PyExc_TypeError, "add() needs a pattern, not None");
        return NULL;
    }
    if (aif_match_add(((Match *)op)->match, pattern, id, &e) != AIF_OK) {
        return raise_error(state_of(op), &e);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(remove__doc__, "remove($self, id, /)\n--\n\n"
                            "Forget id and all its patterns.");

static PyObject *
Match_remove(PyObject *op, PyObject *arg)
{
    uint64_t id;

    if (to_u64(arg, "id", &id) < 0) {
        return NULL;
    }
    aif_match_remove(((Match *)op)->match, id);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(find__doc__, "find($self, event, /)\n--\n\n"
                          "The ids that event touches, ascending.");

static PyObject *
Match_find(PyObject *op, PyObject *arg)
{
    aif_event ev;
    const uint64_t *found;
    uint64_t *ids;
    PyObject *list;
    size_t n;
    aif_error e;

    if (to_event(arg, &no_defaults, &ev) < 0) {
        return NULL;
    }
    if (aif_match_find(((Match *)op)->match, &ev, &found, &n, &e) != AIF_OK) {
        return raise_error(state_of(op), &e);
    }
    /* The next find() overwrites what was found, and to make a list may run
     * the garbage collector, a __del__, and in that one another find(). */
    ids = PyMem_New(uint64_t, n);
    if (ids == NULL) {
        return PyErr_NoMemory();
    }
    for (size_t i = 0; i < n; i++) {
        ids[i] = found[i];
    }
    list = from_offsets(ids, n);
    PyMem_Free(ids);
    return list;
}

static PyMethodDef Match_methods[] = {
    {"add", METHOD(Match_add), FAST, add__doc__},
    {"remove", Match_remove, METH_O, remove__doc__},
    {"find", Match_find, METH_O, find__doc__},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Match__doc__, "Match()\n--\n\n"
                           "An index of patterns: event to ids.");

static PyType_Slot Match_slots[] = {
    {Py_tp_new, Match_new},
    {Py_tp_dealloc, Match_dealloc},
    {Py_tp_methods, Match_methods},
    {Py_tp_doc, (void *)Match__doc__},
    {0, NULL},
};

static PyType_Spec Match_spec = {
    .name = "aiflow_ext._core.Match",
    .basicsize = sizeof(Match),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Match_slots,
};

int
match_init(PyObject *module, module_state *st)
{
    return type_init(module, &Match_spec, &st->Match_type);
}
