/* module.h - what the binding's files share: module state, errors, handles.
 *
 * The pattern of every method: Python arguments to C values, one call of the
 * core without the GIL, the result back.  No locks here; the core has its own
 * and takes it only while the GIL is away, so the two cannot deadlock.
 */
#ifndef AIF_PY_MODULE_H
#define AIF_PY_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base/err.h"

#include <stdbool.h>
#include <sys/types.h>

typedef struct {
    PyObject *errors[AIF_ERR_COUNT]; /* exception class for each aif_err */
    PyObject *Event_type;            /* aiflow_ext.Event, a NamedTuple */
    PyTypeObject *EventLog_type;
    PyTypeObject *Broker_type;
    PyTypeObject *Client_type;
    PyTypeObject *Subscription_type;
    PyTypeObject *Match_type;
    PyTypeObject *Rules_type;
    PyTypeObject *Watch_type;
} module_state;

/* The state behind an instance; our types are final, so its type has it. */
module_state *state_of(PyObject *self);

/* Raise e as its Python exception; returns NULL so callers can return it. */
PyObject *raise_error(module_state *st, const aif_error *e);

/* A Python object around something of the core that is opened and closed.
 * It remembers its process; a call in another one is a ForkError. */
typedef struct {
    PyObject_HEAD
    void *core;           /* NULL once freed */
    void (*drop)(void *); /* frees core; nothing in a fork */
    unsigned inside;      /* calls that are in the core now, without the GIL */
    bool closing;         /* close() was called: the last one out frees */
    pid_t owner;
} handle;

/* A type whose objects are handles, and nothing besides. */
int handle_init(PyObject *module, const char *name, newfunc make,
                PyMethodDef *methods, const char *doc, PyTypeObject **slot);
/* A new instance of type around core; on failure core is dropped. */
PyObject *handle_new(PyTypeObject *type, void *core, void (*drop)(void *));
/* What self holds, for one call of the core; NULL and an exception when it
 * is closed or another process's.  Each success is paired with a leave. */
void *handle_enter(PyObject *self);
void handle_leave(PyObject *self);
void handle_dealloc(PyObject *self);
PyObject *handle_close(PyObject *self, PyObject *ignored);
PyObject *handle_with(PyObject *self, PyObject *ignored);
PyObject *handle_exit(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

extern const char handle_close__doc__[];
extern const char handle_with__doc__[];
extern const char handle_exit__doc__[];

#define METHOD(fn) ((PyCFunction)(void (*)(void))(fn))
#define FAST (METH_FASTCALL | METH_KEYWORDS)
#define HANDLE_METHODS                                                        \
    {"close", handle_close, METH_NOARGS, handle_close__doc__},                \
        {"__enter__", handle_with, METH_NOARGS, handle_with__doc__},          \
    {                                                                         \
        "__exit__", METHOD(handle_exit), METH_FASTCALL, handle_exit__doc__    \
    }

/* Make the type of spec, keep it in *slot and add it to the module. */
int type_init(PyObject *module, PyType_Spec *spec, PyTypeObject **slot);

int errors_init(module_state *st);
int eventlog_init(PyObject *module, module_state *st);
/* What Broker.set_access takes, as a table; -1 and an exception. */
typedef struct aif_access aif_access;
int to_access(module_state *st, PyObject *o, aif_access **out);
int broker_init(PyObject *module, module_state *st);
int client_init(PyObject *module, module_state *st);
int subscription_init(PyObject *module, module_state *st);
int match_init(PyObject *module, module_state *st);
int rules_init(PyObject *module, module_state *st);
int watch_init(PyObject *module, module_state *st);
extern PyMethodDef access_methods[];

#endif
