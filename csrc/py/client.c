/* client.c - aiflow_ext._core.Client: publish to a broker, and ask it.
 *
 * Every call takes a limit in ms and raises TimeoutError after it.  The
 * Python above it (aiflow_ext/events/) asks for at most a second and calls
 * again.
 */
#include "ask.h"
#include "call.h"

#include "client/client.h"

#define FAST (METH_FASTCALL | METH_KEYWORDS)

static void
client_drop(void *client)
{
    aif_client_free(client);
}

static PyObject *
Client_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"uri", "curve", NULL};
    const char *uri;
    PyObject *keys = NULL;
    aif_curve buf;
    const aif_curve *curve;
    aif_client *client;
    aif_error e;
    aif_err err;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s|O:Client", names, &uri,
                                     &keys) ||
        to_curve(keys, &buf, &curve) < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_client_open(uri, curve, &client, &e);
    Py_END_ALLOW_THREADS
    if (err != AIF_OK) {
        return raise_error(PyType_GetModuleState(type), &e);
    }
    return handle_new(type, client, client_drop);
}

typedef struct {
    events in;
    int timeout_ms;
} publishing;

static aif_err
publish_all(void *client, const void *what, uint64_t *offsets, aif_error *e)
{
    const publishing *p = what;

    return aif_client_publish(client, p->in.events, p->in.n, offsets,
                              p->timeout_ms, e);
}

PyDoc_STRVAR(
    publish__doc__,
    "publish($self, /, events, producer, sequence, timeout_ms,\n"
    "        namespace='default', sender='')\n--\n\n"
    "Offsets of events, once they are durable.\n\n"
    "The i-th is (producer, sequence + i), or producer[i] where producer is "
    "a\n"
    "tuple of (producer, sequence): a call that timed out may be made again.\n"
    "namespace and sender are for events that have None there.");

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
    publishing p;

    if (bind_args("publish", names, 4, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_ms(a[3], "timeout_ms", &p.timeout_ms) < 0 ||
        to_defaults(a[4], a[5], &defaults) < 0 ||
        to_events(a[0], &defaults, &p.in) < 0) {
        return NULL;
    }
    if (identify(&p.in, a[1], a[2]) == 0) {
        list = call_append(self, publish_all, &p, p.in.n);
    }
    events_fini(&p.in);
    return list;
}

/* What a question of Client that has a number as its answer is about. */
typedef struct {
    uint64_t ms;
    aif_str producer;
    int timeout_ms;
} asking;

static aif_err
head_of(void *c, const void *about, uint64_t *n, aif_error *e)
{
    const asking *a = about;

    return aif_client_head(c, n, a->timeout_ms, e);
}

static aif_err
offset_at(void *c, const void *about, uint64_t *n, aif_error *e)
{
    const asking *a = about;

    return aif_client_at(c, a->ms, n, a->timeout_ms, e);
}

static aif_err
sequence_of(void *c, const void *about, uint64_t *n, aif_error *e)
{
    const asking *a = about;

    return aif_client_sequence(c, a->producer, n, a->timeout_ms, e);
}

static int
bind_timeout(const char *function, const call_args *call, int *timeout)
{
    static const char *const names[] = {"timeout_ms", NULL};
    PyObject *a[1];

    return bind_args(function, names, 1, call, a) < 0
               ? -1
               : to_ms(a[0], "timeout_ms", timeout);
}

PyDoc_STRVAR(head__doc__, "head($self, /, timeout_ms)\n--\n\n"
                          "The newest offset; 0 when the log is empty.");

static PyObject *
Client_head(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    asking about = {0};

    if (bind_timeout("head", &(call_args){args, nargs, kwnames},
                     &about.timeout_ms) < 0) {
        return NULL;
    }
    return call_number(self, head_of, &about);
}

PyDoc_STRVAR(at__doc__,
             "at($self, /, ms, timeout_ms)\n--\n\n"
             "The newest offset whose event was created before ms since the "
             "epoch; 0: none.");

static PyObject *
Client_at(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames)
{
    static const char *const names[] = {"ms", "timeout_ms", NULL};
    PyObject *a[2];
    asking about = {0};

    if (bind_args("at", names, 2, &(call_args){args, nargs, kwnames}, a) < 0 ||
        to_u64(a[0], "ms", &about.ms) < 0 ||
        to_ms(a[1], "timeout_ms", &about.timeout_ms) < 0) {
        return NULL;
    }
    return call_number(self, offset_at, &about);
}

PyDoc_STRVAR(sequence__doc__,
             "sequence($self, /, producer, timeout_ms)\n--\n\n"
             "The greatest sequence of producer in the log; 0: it has none.");

static PyObject *
Client_sequence(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    static const char *const names[] = {"producer", "timeout_ms", NULL};
    PyObject *a[2];
    asking about = {0};

    if (bind_args("sequence", names, 2, &(call_args){args, nargs, kwnames},
                  a) < 0 ||
        to_str(a[0], "producer", &about.producer) < 0 ||
        to_ms(a[1], "timeout_ms", &about.timeout_ms) < 0) {
        return NULL;
    }
    return call_number(self, sequence_of, &about);
}

PyDoc_STRVAR(status__doc__, "status($self, /, timeout_ms)\n--\n\n"
                            "How the broker does: JSON.");

static PyObject *
Client_status(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    PyObject *text;
    aif_buf out = {0};
    int timeout;
    aif_client *client;
    aif_error e;
    aif_err err;

    if (bind_timeout("status", &(call_args){args, nargs, kwnames}, &timeout) <
        0) {
        return NULL;
    }
    client = handle_enter(self);
    if (client == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_client_status(client, &out, timeout, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    text = err == AIF_OK ? from_str((aif_str){(const char *)out.p, out.n})
                         : raise_error(state_of(self), &e);
    aif_buf_fini(&out);
    return text;
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
    {"list", METHOD(Client_list), FAST, Client_list__doc__},
    {"count", METHOD(Client_count), FAST, Client_count__doc__},
    {"senders", METHOD(Client_senders), FAST, Client_senders__doc__},
    {"last", METHOD(Client_last), FAST, Client_last__doc__},
    {"at", METHOD(Client_at), FAST, at__doc__},
    {"sequence", METHOD(Client_sequence), FAST, sequence__doc__},
    {"status", METHOD(Client_status), FAST, status__doc__},
    {"head", METHOD(Client_head), FAST, head__doc__},
    {"hint", Client_hint, METH_O, hint__doc__},
    HANDLE_METHODS,
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Client__doc__,
             "Client(uri, curve=None)\n--\n\n"
             "One end of a connection to the broker at uri, which may come "
             "later.\n\ncurve: (server, public, secret), keys for tcp.");

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
