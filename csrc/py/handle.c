/* handle.c - opening, using and closing, the same for every handle.
 *
 * close() while another thread is inside a call does not pull the ground from
 * under it: the last one out frees.  `inside` and `closing` are guarded by the
 * GIL, which this module asks for even where Python can do without.
 */
#include "module.h"

#include <unistd.h>

module_state *
state_of(PyObject *self)
{
    return PyType_GetModuleState(Py_TYPE(self));
}

static const char *
name_of(PyObject *self)
{
    const char *dot = strrchr(Py_TYPE(self)->tp_name, '.');

    return dot == NULL ? Py_TYPE(self)->tp_name : dot + 1;
}

PyObject *
handle_new(PyTypeObject *type, void *core, void (*drop)(void *))
{
    handle *h = (handle *)type->tp_alloc(type, 0);

    if (h == NULL) {
        drop(core);
        return NULL;
    }
    h->core = core;
    h->drop = drop;
    h->owner = getpid();
    return (PyObject *)h;
}

void *
handle_enter(PyObject *self)
{
    handle *h = (handle *)self;
    module_state *st = state_of(self);

    if (h->owner != getpid()) {
        PyErr_Format(st->errors[AIF_EFORKED],
                     "this %s was opened in process %d; open a new one in "
                     "this process (%d)",
                     name_of(self), (int)h->owner, (int)getpid());
        return NULL;
    }
    if (h->closing) {
        PyErr_Format(st->errors[AIF_ECLOSED], "this %s is closed",
                     name_of(self));
        return NULL;
    }
    h->inside++;
    return h->core;
}

static void
handle_drop(handle *h)
{
    void *core = h->core;

    h->core = NULL;
    if (core != NULL) {
        Py_BEGIN_ALLOW_THREADS
        h->drop(core);
        Py_END_ALLOW_THREADS
    }
}

void
handle_leave(PyObject *self)
{
    handle *h = (handle *)self;

    h->inside--;
    if (h->closing && h->inside == 0) {
        handle_drop(h);
    }
}

const char handle_close__doc__[] =
    "close($self, /)\n--\n\n"
    "Give the resource back.  Later calls raise ClosedError.";

PyObject *
handle_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    handle *h = (handle *)self;

    if (!h->closing && h->owner == getpid()) {
        h->closing = true;
        if (h->inside == 0) {
            handle_drop(h);
        }
    }
    Py_RETURN_NONE;
}

const char handle_with__doc__[] = "__enter__($self, /)\n--\n\nReturn self.";

PyObject *
handle_with(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self);
}

const char handle_exit__doc__[] = "__exit__($self, /, *exc)\n--\n\nclose().";

PyObject *
handle_exit(PyObject *self, PyObject *const *Py_UNUSED(args),
            Py_ssize_t Py_UNUSED(nargs))
{
    return handle_close(self, NULL);
}

/* Nobody can be inside: whoever calls a method holds a reference.  In a
 * forked child drop does nothing, and what was inherited leaks, as it must. */
void
handle_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    handle_drop((handle *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

int
type_init(PyObject *module, PyType_Spec *spec, PyTypeObject **slot)
{
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *slot == NULL ? -1 : PyModule_AddType(module, *slot);
}

int
handle_init(PyObject *module, const char *name, newfunc make,
            PyMethodDef *methods, const char *doc, PyTypeObject **slot)
{
    PyType_Slot slots[] = {
        {Py_tp_new, make},
        {Py_tp_dealloc, handle_dealloc},
        {Py_tp_methods, methods},
        {Py_tp_doc, (void *)doc},
        {0, NULL},
    };
    PyType_Spec spec = {
        .name = name,
        .basicsize = sizeof(handle),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
        .slots = slots,
    };

    return type_init(module, &spec, slot);
}
