/* module.c - aiflow_ext._core: the module itself. */
#include "module.h"

#include "client/client.h"
#include "event/event.h"
#include "base/mem.h"
#include "rules/rules.h"

static int
add_limits(PyObject *module)
{
    static const struct {
        const char *name;
        long value;
    } limits[] = {
        {"KEY_MAX", AIF_KEY_MAX},         {"NAME_MAX", AIF_NAME_MAX},
        {"CONTEXT_MAX", AIF_CONTEXT_MAX}, {"VALUE_MAX", AIF_VALUE_MAX},
        {"BATCH_MAX", AIF_BATCH_MAX},     {"PATTERNS_MAX", AIF_PATTERNS_MAX},
        {"HINT_MAX", AIF_HINT_MAX},       {"RULES_MAX", AIF_RULES_MAX},
        {"CONDS_MAX", AIF_CONDS_MAX},     {"DEPTH_MAX", AIF_DEPTH_MAX},
        {"COUNT_MAX", AIF_COUNT_MAX},
    };

    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        if (PyModule_AddIntConstant(module, limits[i].name, limits[i].value) <
            0) {
            return -1;
        }
    }
    return 0;
}

static int
event_init(module_state *st)
{
    PyObject *mod = PyImport_ImportModule("aiflow_ext._event");

    if (mod == NULL) {
        return -1;
    }
    st->Event_type = PyObject_GetAttrString(mod, "Event");
    Py_DECREF(mod);
    return st->Event_type == NULL ? -1 : 0;
}

static int
core_exec(PyObject *module)
{
    module_state *st = PyModule_GetState(module);

    if (errors_init(st) < 0 || event_init(st) < 0 || add_limits(module) < 0) {
        return -1;
    }
    if (eventlog_init(module, st) < 0 || broker_init(module, st) < 0 ||
        client_init(module, st) < 0 || subscription_init(module, st) < 0) {
        return -1;
    }
    if (match_init(module, st) < 0 || rules_init(module, st) < 0 ||
        watch_init(module, st) < 0 ||
        PyModule_AddFunctions(module, access_methods) < 0) {
        return -1;
    }
    return 0;
}

/* Every type the state holds, for traverse and clear. */
static PyTypeObject **
type_slot(module_state *st, int i)
{
    PyTypeObject **const slots[] = {
        &st->EventLog_type,     &st->Broker_type, &st->Client_type,
        &st->Subscription_type, &st->Match_type,  &st->Rules_type,
        &st->Watch_type,
    };

    return i < (int)(sizeof slots / sizeof *slots) ? slots[i] : NULL;
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    module_state *st = PyModule_GetState(module);
    PyTypeObject **slot;

    for (int i = 0; i < AIF_ERR_COUNT; i++) {
        Py_VISIT(st->errors[i]);
    }
    for (int i = 0; (slot = type_slot(st, i)) != NULL; i++) {
        Py_VISIT(*slot);
    }
    Py_VISIT(st->Event_type);
    return 0;
}

static int
core_clear(PyObject *module)
{
    module_state *st = PyModule_GetState(module);
    PyTypeObject **slot;

    for (int i = 0; i < AIF_ERR_COUNT; i++) {
        Py_CLEAR(st->errors[i]);
    }
    for (int i = 0; (slot = type_slot(st, i)) != NULL; i++) {
        Py_CLEAR(*slot);
    }
    Py_CLEAR(st->Event_type);
    return 0;
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
    {0, NULL},
};

PyDoc_STRVAR(core__doc__, "The C core of aiflow_ext.  Private: import from "
                          "aiflow_ext instead.");

static PyModuleDef core_def = {
    PyModuleDef_HEAD_INIT, .m_name = "_core",
    .m_doc = core__doc__,  .m_size = sizeof(module_state),
    .m_slots = core_slots, .m_traverse = core_traverse,
    .m_clear = core_clear,
};

PyMODINIT_FUNC PyInit__core(void); /* before it, for -Wmissing-prototypes */

PyMODINIT_FUNC
PyInit__core(void)
{
    /* Raw: usable without the GIL, and seen by tracemalloc and
     * PYTHONMALLOC=debug.  Nothing has been allocated yet. */
    aif_realloc = PyMem_RawRealloc;
    aif_free = PyMem_RawFree;
    return PyModuleDef_Init(&core_def);
}
