/* rules.c - aiflow_ext._core.Rules: (state, event) -> (state, what fires).
 *
 * A state is bytes, to be kept wherever the effects are kept.  Rules are
 * immutable once built and pure, so the GIL stays held.
 */
#include "convert.h"

#include "rules/rules.h"

typedef struct {
    PyObject_HEAD
    aif_rules *rules;
} Rules;

static const char *const action_names[] = {
    [AIF_NONE] = "none",
    [AIF_START] = "start",
    [AIF_RESTART] = "restart",
    [AIF_STOP] = "stop",
};

static int
to_action(PyObject *o, aif_action *out)
{
    for (int i = 0; i < 4 && PyUnicode_Check(o); i++) {
        if (PyUnicode_CompareWithASCIIString(o, action_names[i]) == 0) {
            *out = (aif_action)i;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError,
                 "an action is \"start\", \"restart\", \"stop\" or \"none\", "
                 "not %R",
                 o);
    return -1;
}

/* ("event", namespace, key, type, sender, value or None, repeated, count,
 * within_ms, own_run) */
static int
cond_of_event(PyObject *o, aif_cond *out)
{
    PyObject *const *f = ((PyTupleObject *)o)->ob_item;

    if (PyTuple_GET_SIZE(o) != 10) {
        PyErr_Format(PyExc_ValueError,
                     "an event condition has 10 fields, not %zd",
                     PyTuple_GET_SIZE(o));
        return -1;
    }
    out->kind = AIF_EVENT;
    if (to_str(f[1], "namespace", &out->pattern.ns) < 0 ||
        to_str(f[2], "key", &out->pattern.key) < 0 ||
        to_str(f[3], "type", &out->pattern.type) < 0 ||
        to_str(f[4], "sender", &out->pattern.sender) < 0) {
        return -1;
    }
    out->equals = f[5] != Py_None;
    if (out->equals && to_str(f[5], "value", &out->value) < 0) {
        return -1;
    }
    return to_bool(f[6], "repeated", &out->repeated) < 0 ||
                   to_u32(f[7], "count", &out->count) < 0 ||
                   to_i64(f[8], "within_ms", &out->within_ms) < 0 ||
                   to_bool(f[9], "own_run", &out->own_run) < 0
               ? -1
               : 0;
}

/* ("all", n), ("any", n) or ("every", ms) */
static int
cond_of_number(PyObject *o, aif_cond *out)
{
    PyObject *kind = PyTuple_GET_ITEM(o, 0);
    PyObject *number;

    if (PyTuple_GET_SIZE(o) != 2) {
        PyErr_Format(PyExc_ValueError, "condition %R has 2 fields, not %zd",
                     kind, PyTuple_GET_SIZE(o));
        return -1;
    }
    number = PyTuple_GET_ITEM(o, 1);
    if (PyUnicode_CompareWithASCIIString(kind, "every") == 0) {
        out->kind = AIF_EVERY;
        return to_i64(number, "every", &out->every_ms);
    }
    out->kind =
        PyUnicode_CompareWithASCIIString(kind, "all") == 0 ? AIF_ALL : AIF_ANY;
    return to_u32(number, "children", &out->children);
}

static int
to_cond(PyObject *o, aif_cond *out)
{
    PyObject *kind;

    *out = (aif_cond){0};
    kind = PyTuple_Check(o) && PyTuple_GET_SIZE(o) > 0 ? PyTuple_GET_ITEM(o, 0)
                                                       : Py_None;
    if (PyUnicode_Check(kind)) {
        if (PyUnicode_CompareWithASCIIString(kind, "event") == 0) {
            return cond_of_event(o, out);
        }
        if (PyUnicode_CompareWithASCIIString(kind, "all") == 0 ||
            PyUnicode_CompareWithASCIIString(kind, "any") == 0 ||
            PyUnicode_CompareWithASCIIString(kind, "every") == 0) {
            return cond_of_number(o, out);
        }
    }
    PyErr_Format(PyExc_ValueError,
                 "a condition is a tuple that begins with \"event\", \"all\", "
                 "\"any\" or \"every\", not %R",
                 o);
    return -1;
}

/* conds is a tuple, and keeps its strings alive while they are copied. */
static int
rules_add_conds(module_state *st, aif_rules *rules, aif_action action,
                PyObject *conds)
{
    Py_ssize_t n = PyTuple_GET_SIZE(conds);
    aif_cond *c = PyMem_New(aif_cond, (size_t)n);
    aif_error e;
    int rc = 0;

    if (c == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n && rc == 0; i++) {
        rc = to_cond(PyTuple_GET_ITEM(conds, i), &c[i]);
    }
    if (rc == 0 && aif_rules_add(rules, action, c, (size_t)n, &e) != AIF_OK) {
        raise_error(st, &e);
        rc = -1;
    }
    PyMem_Free(c);
    return rc;
}

/* rule: (action, conditions) */
static int
rules_add_rule(module_state *st, aif_rules *rules, PyObject *rule)
{
    PyObject *conds;
    aif_action action;
    int rc;

    if (!PyTuple_Check(rule) || PyTuple_GET_SIZE(rule) != 2) {
        PyErr_Format(PyExc_TypeError,
                     "a rule is a tuple (action, conditions), not %R", rule);
        return -1;
    }
    if (to_action(PyTuple_GET_ITEM(rule, 0), &action) < 0) {
        return -1;
    }
    conds = PySequence_Tuple(PyTuple_GET_ITEM(rule, 1));
    if (conds == NULL) {
        return -1;
    }
    rc = rules_add_conds(st, rules, action, conds);
    Py_DECREF(conds);
    return rc;
}

static int
rules_add_all(module_state *st, aif_rules *rules, PyObject *spec)
{
    PyObject *all = PySequence_Tuple(spec);
    int rc = 0;

    if (all == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(all) && rc == 0; i++) {
        rc = rules_add_rule(st, rules, PyTuple_GET_ITEM(all, i));
    }
    Py_DECREF(all);
    return rc;
}

static PyObject *
Rules_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"spec", NULL};
    module_state *st = PyType_GetModuleState(type);
    PyObject *spec;
    Rules *self;
    aif_error e;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Rules", names, &spec)) {
        return NULL;
    }
    self = (Rules *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (aif_rules_new(&self->rules, &e) != AIF_OK) {
        raise_error(st, &e);
        goto fail;
    }
    if (rules_add_all(st, self->rules, spec) < 0) {
        goto fail;
    }
    return (PyObject *)self;
fail:
    Py_DECREF(self);
    return NULL;
}

static void
Rules_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    aif_rules_free(((Rules *)op)->rules);
    type->tp_free(op);
    Py_DECREF(type);
}

static Py_ssize_t
Rules_len(PyObject *op)
{
    return (Py_ssize_t)aif_rules_count(((Rules *)op)->rules);
}

/* The bytes of s; `before`, when they are the same. */
static PyObject *
from_state(module_state *st, const aif_rules_state *s, PyObject *before)
{
    aif_buf buf = {0};
    PyObject *bytes;
    aif_error e;

    if (aif_state_encode(s, &buf, &e) != AIF_OK) {
        aif_buf_fini(&buf);
        return raise_error(st, &e);
    }
    if (before != NULL && (size_t)PyBytes_GET_SIZE(before) == buf.n &&
        memcmp(PyBytes_AS_STRING(before), buf.p, buf.n) == 0) {
        bytes = Py_NewRef(before);
    } else {
        bytes =
            PyBytes_FromStringAndSize((const char *)buf.p, (Py_ssize_t)buf.n);
    }
    aif_buf_fini(&buf);
    return bytes;
}

static int
to_reader(PyObject *o, aif_reader *in)
{
    if (!PyBytes_Check(o)) {
        PyErr_Format(PyExc_TypeError, "state must be bytes, not %.100s",
                     Py_TYPE(o)->tp_name);
        return -1;
    }
    in->p = (const uint8_t *)PyBytes_AS_STRING(o);
    in->n = (size_t)PyBytes_GET_SIZE(o);
    return 0;
}

static aif_rules_state *
to_state(PyObject *op, PyObject *o)
{
    aif_rules_state *s;
    aif_reader in;
    aif_error e;

    if (to_reader(o, &in) < 0) {
        return NULL;
    }
    if (aif_state_decode(((Rules *)op)->rules, &in, &s, &e) != AIF_OK) {
        raise_error(state_of(op), &e);
        return NULL;
    }
    return s;
}

static PyObject *
from_firings(const aif_firings *f)
{
    PyObject *list = PyList_New((Py_ssize_t)f->n);

    for (size_t i = 0; list != NULL && i < f->n; i++) {
        const aif_fired *one = &f->fired[i];
        PyObject *t = Py_BuildValue("(IsN)", (unsigned)one->rule,
                                    action_names[one->action],
                                    from_offsets(one->offsets, one->n));
        if (t == NULL) {
            Py_CLEAR(list);
            break;
        }
        PyList_SET_ITEM(list, (Py_ssize_t)i, t);
    }
    return list;
}

/* (state, fired) */
static PyObject *
from_turn(module_state *st, const aif_rules_state *s, PyObject *before,
          const aif_firings *f)
{
    PyObject *bytes = from_state(st, s, before);
    PyObject *fired = bytes == NULL ? NULL : from_firings(f);

    if (fired == NULL) {
        Py_XDECREF(bytes);
        return NULL;
    }
    return Py_BuildValue("(NN)", bytes, fired);
}

PyDoc_STRVAR(start__doc__,
             "start($self, /, since, now_ms)\n--\n\n"
             "A fresh state that listens beyond offset since; periods begin "
             "at now_ms.");

static PyObject *
Rules_start(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const char *const names[] = {"since", "now_ms", NULL};
    module_state *st = state_of(op);
    PyObject *a[2];
    PyObject *bytes;
    aif_rules_state *s;
    uint64_t since;
    int64_t now;
    aif_error e;

    if (bind_args("start", names, 2, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_u64(a[0], "since", &since) < 0 ||
        to_i64(a[1], "now_ms", &now) < 0) {
        return NULL;
    }
    if (aif_state_new(((Rules *)op)->rules, since, now, &s, &e) != AIF_OK) {
        return raise_error(st, &e);
    }
    bytes = from_state(st, s, NULL);
    aif_state_free(s);
    return bytes;
}

/* What happens to a state: an event, or that it is now. */
typedef struct {
    const aif_event *ev; /* NULL: now */
    bool own_run;
    int64_t now;
} turn;

static PyObject *
rules_turn(PyObject *op, PyObject *before, const turn *t)
{
    const aif_rules *rules = ((Rules *)op)->rules;
    aif_rules_state *s = to_state(op, before);
    aif_firings fired = {0};
    PyObject *out;
    aif_error e;
    aif_err err;

    if (s == NULL) {
        return NULL;
    }
    err = t->ev == NULL
              ? aif_rules_tick(rules, s, t->now, &fired, &e)
              : aif_rules_feed(rules, s, t->ev, t->own_run, &fired, &e);
    out = err == AIF_OK ? from_turn(state_of(op), s, before, &fired)
                        : raise_error(state_of(op), &e);
    aif_firings_fini(&fired);
    aif_state_free(s);
    return out;
}

PyDoc_STRVAR(
    feed__doc__,
    "feed($self, /, state, event, own_run=False)\n--\n\n"
    "(state, [(rule index, action, [offsets])]) after event.\n\n"
    "own_run: event is a status of the run that state is of.  An event not\n"
    "beyond the last one fed does nothing; an unchanged state is the same "
    "object.");

static PyObject *
Rules_feed(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames)
{
    static const char *const names[] = {"state", "event", "own_run", NULL};
    PyObject *a[3];
    aif_event ev;
    turn t = {.ev = &ev};

    if (bind_args("feed", names, 2, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_event(a[1], &no_defaults, &ev) < 0 ||
        to_bool(a[2], "own_run", &t.own_run) < 0) {
        return NULL;
    }
    return rules_turn(op, a[0], &t);
}

PyDoc_STRVAR(tick__doc__, "tick($self, /, state, now_ms)\n--\n\n"
                          "As feed(), for periods that are due at now_ms.");

static PyObject *
Rules_tick(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
           PyObject *kwnames)
{
    static const char *const names[] = {"state", "now_ms", NULL};
    PyObject *a[2];
    turn t = {0};

    if (bind_args("tick", names, 2, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_i64(a[1], "now_ms", &t.now) < 0) {
        return NULL;
    }
    return rules_turn(op, a[0], &t);
}

PyDoc_STRVAR(due__doc__, "due($self, state, /)\n--\n\n"
                         "The earliest due time in ms; None without periods.");

static PyObject *
Rules_due(PyObject *op, PyObject *arg)
{
    aif_rules_state *s = to_state(op, arg);
    int64_t due;

    if (s == NULL) {
        return NULL;
    }
    due = aif_rules_due(((Rules *)op)->rules, s);
    aif_state_free(s);
    return due == INT64_MAX ? Py_NewRef(Py_None) : PyLong_FromLongLong(due);
}

PyDoc_STRVAR(heard__doc__,
             "heard($self, state, /)\n--\n\n"
             "The offset up to which the rules have heard that wrote this "
             "state; they need not be these.");

static PyObject *
Rules_heard(PyObject *op, PyObject *arg)
{
    aif_reader in;
    uint64_t heard;
    aif_error e;

    if (to_reader(arg, &in) < 0) {
        return NULL;
    }
    if (aif_state_heard(&in, &heard, &e) != AIF_OK) {
        return raise_error(state_of(op), &e);
    }
    return PyLong_FromUnsignedLongLong(heard);
}

static PyMethodDef Rules_methods[] = {
    {"start", METHOD(Rules_start), FAST, start__doc__},
    {"feed", METHOD(Rules_feed), FAST, feed__doc__},
    {"tick", METHOD(Rules_tick), FAST, tick__doc__},
    {"due", Rules_due, METH_O, due__doc__},
    {"heard", Rules_heard, METH_O, heard__doc__},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Rules__doc__,
             "Rules(spec)\n--\n\n"
             "An ordered list of (action, conditions), conditions in prefix "
             "order.");

static PyType_Slot Rules_slots[] = {
    {Py_tp_new, Rules_new},
    {Py_tp_dealloc, Rules_dealloc},
    {Py_tp_methods, Rules_methods},
    {Py_sq_length, Rules_len},
    {Py_tp_doc, (void *)Rules__doc__},
    {0, NULL},
};

static PyType_Spec Rules_spec = {
    .name = "aiflow_ext._core.Rules",
    .basicsize = sizeof(Rules),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Rules_slots,
};

int
rules_init(PyObject *module, module_state *st)
{
    return type_init(module, &Rules_spec, &st->Rules_type);
}
