/* client.c - aiflow_ext._core.Client: publish to a broker, and ask it.
 *
 * Every call takes a limit in ms and raises TimeoutError after it.  The
 * Python above it (events.py) asks for at most a second and calls again.
 */
#include "convert.h"

#include "client.h"

#define FAST (METH_FASTCALL | METH_KEYWORDS)

static void
client_drop(void *client)
{
    aif_client_free(client);
}

static PyObject *
Client_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"uri", NULL};
    const char *uri;
    aif_client *client;
    aif_error e;
    aif_err err;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s:Client", names, &uri)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_client_open(uri, &client, &e);
    Py_END_ALLOW_THREADS
    if (err != AIF_OK) {
        return raise_error(PyType_GetModuleState(type), &e);
    }
    return handle_new(type, client, client_drop);
}

static PyObject *
publish_events(PyObject *self, const events *in, int timeout)
{
    uint64_t *offsets = PyMem_New(uint64_t, in->n);
    PyObject *list = NULL;
    aif_client *client;
    aif_error e;
    aif_err err;

    if (offsets == NULL) {
        return PyErr_NoMemory();
    }
    client = handle_enter(self);
    if (client == NULL) {
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_client_publish(client, in->events, in->n, offsets, timeout, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    list = err == AIF_OK ? from_offsets(offsets, in->n)
                         : raise_error(state_of(self), &e);
done:
    PyMem_Free(offsets);
    return list;
}

static int
to_defaults(PyObject *ns, PyObject *sender, event_defaults *out)
{
    *out = no_defaults;
    if (ns != NULL && to_str(ns, "namespace", &out->ns) < 0) {
        return -1;
    }
    return sender == NULL ? 0 : to_str(sender, "sender", &out->sender);
}

PyDoc_STRVAR(
    publish__doc__,
    "publish($self, /, events, producer, sequence, timeout_ms,\n"
    "        namespace='default', sender='')\n--\n\n"
    "Offsets of events, once they are durable.\n\n"
    "The i-th is (producer, sequence + i): a call that timed out may be made\n"
    "again.  namespace and sender are for events that have None there.");

static PyObject *
Client_publish(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"events",     "producer",  "sequence",
                                        "timeout_ms", "namespace", "sender",
                                        NULL};
    PyObject *a[6];
    PyObject *list = NULL;
    event_defaults defaults;
    events in;
    int timeout;

    if (bind_args("publish", names, 4, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_ms(a[3], "timeout_ms", &timeout) < 0 ||
        to_defaults(a[4], a[5], &defaults) < 0 ||
        to_events(a[0], &defaults, &in) < 0) {
        return NULL;
    }
    if (identify(&in, a[1], a[2]) == 0) {
        list = publish_events(self, &in, timeout);
    }
    events_fini(&in);
    return list;
}

PyDoc_STRVAR(
    list__doc__,
    "list($self, /, after, max, pattern, timeout_ms)\n--\n\n"
    "At most max of the events beyond offset after that pattern matches.\n\n"
    "Fewer may come (an answer has a size); none: there are no more.");

static PyObject *
Client_list(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const char *const names[] = {"after", "max", "pattern",
                                        "timeout_ms", NULL};
    PyObject *a[4];
    PyObject *list;
    aif_pattern buf;
    const aif_pattern *pattern;
    aif_batch batch = {0};
    uint64_t after;
    size_t max;
    int timeout;
    aif_client *client;
    aif_error e;
    aif_err err;

    if (bind_args("list", names, 4, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_u64(a[0], "after", &after) < 0 || to_size(a[1], "max", &max) < 0 ||
        to_pattern(a[2], &buf, &pattern) < 0 ||
        to_ms(a[3], "timeout_ms", &timeout) < 0) {
        return NULL;
    }
    client = handle_enter(self);
    if (client == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_client_list(client, pattern, after, max, &batch, timeout, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    list = err == AIF_OK ? from_batch(state_of(self), &batch)
                         : raise_error(state_of(self), &e);
    aif_batch_fini(&batch);
    return list;
}

PyDoc_STRVAR(count__doc__,
             "count($self, /, after, pattern, timeout_ms)\n--\n\n"
             "How many events beyond offset after pattern matches.");

static PyObject *
Client_count(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    static const char *const names[] = {"after", "pattern", "timeout_ms",
                                        NULL};
    PyObject *a[3];
    aif_pattern buf;
    const aif_pattern *pattern;
    uint64_t after;
    uint64_t n;
    int timeout;
    aif_client *client;
    aif_error e;
    aif_err err;

    if (bind_args("count", names, 3, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_u64(a[0], "after", &after) < 0 ||
        to_pattern(a[1], &buf, &pattern) < 0 ||
        to_ms(a[2], "timeout_ms", &timeout) < 0) {
        return NULL;
    }
    client = handle_enter(self);
    if (client == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_client_count(client, pattern, after, &n, timeout, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    return err == AIF_OK ? PyLong_FromUnsignedLongLong(n)
                         : raise_error(state_of(self), &e);
}

PyDoc_STRVAR(head__doc__, "head($self, /, timeout_ms)\n--\n\n"
                          "The newest offset; 0 when the log is empty.");

static PyObject *
Client_head(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const char *const names[] = {"timeout_ms", NULL};
    PyObject *a[1];
    uint64_t offset;
    int timeout;
    aif_client *client;
    aif_error e;
    aif_err err;

    if (bind_args("head", names, 1, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_ms(a[0], "timeout_ms", &timeout) < 0) {
        return NULL;
    }
    client = handle_enter(self);
    if (client == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_client_head(client, &offset, timeout, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    return err == AIF_OK ? PyLong_FromUnsignedLongLong(offset)
                         : raise_error(state_of(self), &e);
}

PyDoc_STRVAR(hint__doc__,
             "hint($self, text, /)\n--\n\n"
             "Wake who subscribed with hints; not durable, never blocks, may "
             "be lost.");

static PyObject *
Client_hint(PyObject *self, PyObject *text)
{
    aif_str s;
    aif_client *client;
    aif_error e;
    aif_err err;

    if (to_str(text, "hint", &s) < 0) {
        return NULL;
    }
    client = handle_enter(self);
    if (client == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_client_hint(client, s, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    return err == AIF_OK ? Py_NewRef(Py_None)
                         : raise_error(state_of(self), &e);
}

static PyMethodDef Client_methods[] = {
    {"publish", METHOD(Client_publish), FAST, publish__doc__},
    {"list", METHOD(Client_list), FAST, list__doc__},
    {"count", METHOD(Client_count), FAST, count__doc__},
    {"head", METHOD(Client_head), FAST, head__doc__},
    {"hint", Client_hint, METH_O, hint__doc__},
    HANDLE_METHODS,
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Client__doc__,
             "Client(uri)\n--\n\n"
             "One end of a connection to the broker at uri, which may come "
             "later.");

static PyType_Slot Client_slots[] = {
    {Py_tp_new, Client_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_methods, Client_methods},
    {Py_tp_doc, (void *)Client__doc__},
    {0, NULL},
};

static PyType_Spec Client_spec = {
    .name = "aiflow_ext._core.Client",
    .basicsize = sizeof(handle),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = Client_slots,
};

int
client_init(PyObject *module, module_state *st)
{
    return type_init(module, &Client_spec, &st->Client_type);
}
