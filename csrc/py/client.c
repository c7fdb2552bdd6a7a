/* client.c - aiflow_ext._core.Client: publish to a broker, and ask it.
 *
 * Every call takes a limit in ms and raises TimeoutError after it.  The
 * Python above it (aiflow_ext/events/) asks for at most a second and calls
 * again.  A question about the log is answered for a part of it: the answer is
 * a pair, whose second is where to go on, or None at the end.
 */
#include "call.h"

#include "client/client.h"

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

static aif_err
client_publish(void *client, void *about, aif_error *e)
{
    const appending *a = about;

    return aif_client_publish(client, a->in.events, a->in.n, a->offsets,
                              a->timeout_ms, e);
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
    appending p;

    if (bind_args("publish", names, 4, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_ms(a[3], "timeout_ms", &p.timeout_ms) < 0 ||
        to_defaults(a[4], a[5], &defaults) < 0 ||
        to_events(a[0], &defaults, &p.in) < 0) {
        return NULL;
    }
    if (identify(&p.in, a[1], a[2]) == 0) {
        list = call_append(self, client_publish, &p);
    }
    events_fini(&p.in);
    return list;
}

/* A question, or a hint: what it is about, and the answer. */
typedef struct {
    aif_query *q;
    size_t max;
    uint64_t ms;
    aif_str text; /* a producer, or a hint's; a namespace */
    aif_cursor cursor;
    uint64_t log_id;
    int timeout_ms;
    uint64_t n;
    bool more;
    aif_batch batch;
    aif_buf bytes;
} asking;

#define CLIENT_CALL(name, ...)                                                \
    static aif_err client_##name(void *client, void *about, aif_error *e)     \
    {                                                                         \
        asking *a = about;                                                    \
                                                                              \
        return aif_client_##name(client, __VA_ARGS__, e);                     \
    }

CLIENT_CALL(list, a->q, a->max, &a->batch, &a->more, a->timeout_ms)
CLIENT_CALL(count, a->q, &a->n, &a->more, a->timeout_ms)
CLIENT_CALL(last, a->q, &a->n, &a->more, a->timeout_ms)
CLIENT_CALL(senders, a->q, &a->bytes, &a->more, a->timeout_ms)
CLIENT_CALL(at, a->ms, &a->n, a->timeout_ms)
CLIENT_CALL(sequence, a->text, &a->n, a->timeout_ms)
CLIENT_CALL(head, &a->n, a->timeout_ms)
CLIENT_CALL(status, &a->bytes, a->timeout_ms)
CLIENT_CALL(hint, a->text)
CLIENT_CALL(take, &a->cursor, &a->log_id, a->timeout_ms)
CLIENT_CALL(move, &a->cursor, a->log_id, a->timeout_ms)
CLIENT_CALL(forget, &a->cursor, &a->n, a->timeout_ms)
CLIENT_CALL(cursors, a->text, &a->bytes, a->timeout_ms)

static PyObject *
ask_number(PyObject *self, core_call *f, asking *a)
{
    return call_core(self, f, a) < 0 ? NULL
                                     : PyLong_FromUnsignedLongLong(a->n);
}

/* (answer, where to go on or None); takes answer. */
static PyObject *
from_part(PyObject *answer, uint64_t at, bool more)
{
    PyObject *next;

    if (answer == NULL) {
        return NULL;
    }
    next = more ? PyLong_FromUnsignedLongLong(at) : Py_NewRef(Py_None);
    if (next == NULL) {
        Py_DECREF(answer);
        return NULL;
    }
    return Py_BuildValue("(NN)", answer, next);
}

PyDoc_STRVAR(
    list__doc__,
    "list($self, /, after, max, patterns, timeout_ms, upto=None, kept=False)\n"
    "--\n\n"
    "(events, next): at most max of those beyond offset after, and not beyond "
    "upto,\nthat one of patterns matches (None: all).\n\n"
    "next is where to go on, None at the end.  A page may be empty and yet "
    "not be\nthe last.  kept: events that were let go are no error.");

static PyObject *
Client_list(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const char *const names[] = {
        "after", "max", "patterns", "timeout_ms", "upto", "kept", NULL};
    PyObject *v[6];
    PyObject *page = NULL;
    query in;
    asking a = {.q = &in.q};
    bool kept;

    if (bind_args("list", names, 4, &(call_args){args, nargs, kwnames}, v) <
            0 ||
        to_size(v[1], "max", &a.max) < 0 ||
        to_ms(v[3], "timeout_ms", &a.timeout_ms) < 0 ||
        to_bool(v[5], "kept", &kept) < 0 ||
        to_query(v[2], v[0], v[4], &in) < 0) {
        return NULL;
    }
    in.q.kept = kept;
    if (call_core(self, client_list, &a) == 0) {
        page = from_part(from_batch(state_of(self), &a.batch), in.q.after,
                         a.more);
    }
    aif_batch_fini(&a.batch);
    query_fini(&in);
    return page;
}

/* after, patterns, timeout_ms, upto=None: the arguments of all the others. */
static int
bind_query(const char *function, const call_args *call, query *in,
           int *timeout)
{
    static const char *const names[] = {"after", "patterns", "timeout_ms",
                                        "upto", NULL};
    PyObject *a[4];

    if (bind_args(function, names, 3, call, a) < 0 ||
        to_ms(a[2], "timeout_ms", timeout) < 0) {
        return -1;
    }
    return to_query(a[1], a[0], a[3], in);
}

static PyObject *
ask_part(PyObject *self, const char *function, core_call *f,
         const call_args *call)
{
    PyObject *part = NULL;
    query in;
    asking a = {.q = &in.q};

    if (bind_query(function, call, &in, &a.timeout_ms) < 0) {
        return NULL;
    }
    if (call_core(self, f, &a) == 0) {
        part =
            from_part(f == client_senders ? from_counts(&a.bytes)
                                          : PyLong_FromUnsignedLongLong(a.n),
                      f == client_last ? in.q.upto : in.q.after, a.more);
    }
    aif_buf_fini(&a.bytes);
    query_fini(&in);
    return part;
}

PyDoc_STRVAR(
    count__doc__,
    "count($self, /, after, patterns, timeout_ms, upto=None)\n--\n\n"
    "(n, next): how many of those beyond offset after, and not beyond upto, "
    "match.\n\n"
    "They are the first part of them; next is after which to ask for the "
    "rest,\nNone at the end.");

static PyObject *
Client_count(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    return ask_part(self, "count", client_count,
                    &(call_args){args, nargs, kwnames});
}

PyDoc_STRVAR(
    last__doc__,
    "last($self, /, after, patterns, timeout_ms, upto=None)\n--\n\n"
    "(offset, next): the newest beyond offset after, and not beyond upto, "
    "that\nmatches.\n\n"
    "0: none in the last part of them; next is up to which to ask for the "
    "rest,\nNone when there is none.");

static PyObject *
Client_last(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    return ask_part(self, "last", client_last,
                    &(call_args){args, nargs, kwnames});
}

PyDoc_STRVAR(
    senders__doc__,
    "senders($self, /, after, patterns, timeout_ms, upto=None)\n--\n\n"
    "({sender: n}, next): count() for each sender.");

static PyObject *
Client_senders(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    return ask_part(self, "senders", client_senders,
                    &(call_args){args, nargs, kwnames});
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
    return ask_number(self, client_head, &about);
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
    return ask_number(self, client_at, &about);
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
        to_str(a[0], "producer", &about.text) < 0 ||
        to_ms(a[1], "timeout_ms", &about.timeout_ms) < 0) {
        return NULL;
    }
    return ask_number(self, client_sequence, &about);
}

PyDoc_STRVAR(status__doc__, "status($self, /, timeout_ms)\n--\n\n"
                            "How the broker does: JSON.");

static PyObject *
Client_status(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    PyObject *text = NULL;
    asking about = {0};

    if (bind_timeout("status", &(call_args){args, nargs, kwnames},
                     &about.timeout_ms) < 0) {
        return NULL;
    }
    if (call_core(self, client_status, &about) == 0) {
        text = from_str((aif_str){(const char *)about.bytes.p, about.bytes.n});
    }
    aif_buf_fini(&about.bytes);
    return text;
}

PyDoc_STRVAR(hint__doc__,
             "hint($self, text, /)\n--\n\n"
             "Wake who subscribed with hints; not durable, never blocks, may "
             "be lost.");

static PyObject *
Client_hint(PyObject *self, PyObject *text)
{
    asking about = {0};

    if (to_str(text, "hint", &about.text) < 0 ||
        call_core(self, client_hint, &about) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* namespace and name, which all that is about one cursor begins with. */
static int
to_cursor(PyObject *ns, PyObject *name, asking *about)
{
    return to_str(ns, "namespace", &about->cursor.ns) < 0
               ? -1
               : to_str(name, "name", &about->cursor.name);
}

PyDoc_STRVAR(
    take__doc__,
    "take($self, /, namespace, name, holder, after, timeout_ms)\n--\n\n"
    "(offset, log_id): where the cursor of that name is, which is holder's "
    "from now\non.\n\n"
    "after: where a new one begins; None: behind the newest event.  holder: a "
    "random "
    "number; the\nsame call may be made again.");

static PyObject *
Client_take(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const char *const names[] = {"namespace", "name",       "holder",
                                        "after",     "timeout_ms", NULL};
    PyObject *a[5];
    asking about = {.cursor.offset = AIF_AFTER_NOW};

    if (bind_args("take", names, 5, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_cursor(a[0], a[1], &about) < 0 ||
        to_u64(a[2], "holder", &about.cursor.holder) < 0 ||
        (a[3] != Py_None && to_u64(a[3], "after", &about.cursor.offset) < 0) ||
        to_ms(a[4], "timeout_ms", &about.timeout_ms) < 0 ||
        call_core(self, client_take, &about) < 0) {
        return NULL;
    }
    return Py_BuildValue("(KK)", (unsigned long long)about.cursor.offset,
                         (unsigned long long)about.log_id);
}

PyDoc_STRVAR(
    move__doc__,
    "move($self, /, namespace, name, holder, offset, log_id, timeout_ms)\n"
    "--\n\n"
    "Move a cursor on to offset, never back.\n\n"
    "ConflictError: it is another's by now, or was deleted; ReplacedError: "
    "the log is\nnot the one of that id any more.");

static PyObject *
Client_move(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const char *const names[] = {
        "namespace", "name", "holder", "offset", "log_id", "timeout_ms", NULL};
    PyObject *a[6];
    asking about = {0};

    if (bind_args("move", names, 6, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_cursor(a[0], a[1], &about) < 0 ||
        to_u64(a[2], "holder", &about.cursor.holder) < 0 ||
        to_u64(a[3], "offset", &about.cursor.offset) < 0 ||
        to_u64(a[4], "log_id", &about.log_id) < 0 ||
        to_ms(a[5], "timeout_ms", &about.timeout_ms) < 0 ||
        call_core(self, client_move, &about) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(forget__doc__,
             "forget($self, /, namespace, name, timeout_ms)\n--\n\n"
             "Delete a cursor; 1, or 0: there was none.");

static PyObject *
Client_forget(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
              PyObject *kwnames)
{
    static const char *const names[] = {"namespace", "name", "timeout_ms",
                                        NULL};
    PyObject *a[3];
    asking about = {0};

    if (bind_args("forget", names, 3, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_cursor(a[0], a[1], &about) < 0 ||
        to_ms(a[2], "timeout_ms", &about.timeout_ms) < 0) {
        return NULL;
    }
    return ask_number(self, client_forget, &about);
}

PyDoc_STRVAR(
    cursors__doc__,
    "cursors($self, /, namespace, timeout_ms)\n--\n\n"
    "Those of the namespaces that namespace means: (namespace, name, offset, "
    "ms since\nthe epoch when it was taken or moved last).");

static PyObject *
Client_cursors(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    static const char *const names[] = {"namespace", "timeout_ms", NULL};
    PyObject *a[2];
    PyObject *rows = NULL;
    asking about = {0};

    if (bind_args("cursors", names, 2, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_str(a[0], "namespace", &about.text) < 0 ||
        to_ms(a[1], "timeout_ms", &about.timeout_ms) < 0) {
        return NULL;
    }
    if (call_core(self, client_cursors, &about) == 0) {
        rows = from_cursors(&about.bytes);
    }
    aif_buf_fini(&about.bytes);
    return rows;
}

static PyMethodDef Client_methods[] = {
    {"publish", METHOD(Client_publish), FAST, publish__doc__},
    {"list", METHOD(Client_list), FAST, list__doc__},
    {"count", METHOD(Client_count), FAST, count__doc__},
    {"senders", METHOD(Client_senders), FAST, senders__doc__},
    {"last", METHOD(Client_last), FAST, last__doc__},
    {"at", METHOD(Client_at), FAST, at__doc__},
    {"sequence", METHOD(Client_sequence), FAST, sequence__doc__},
    {"status", METHOD(Client_status), FAST, status__doc__},
    {"head", METHOD(Client_head), FAST, head__doc__},
    {"hint", Client_hint, METH_O, hint__doc__},
    {"take", METHOD(Client_take), FAST, take__doc__},
    {"move", METHOD(Client_move), FAST, move__doc__},
    {"forget", METHOD(Client_forget), FAST, forget__doc__},
    {"cursors", METHOD(Client_cursors), FAST, cursors__doc__},
    HANDLE_METHODS,
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(Client__doc__,
             "Client(uri, curve=None)\n--\n\n"
             "One end of a connection to the broker at uri, which may come "
             "later.\n\ncurve: (server, public, secret), keys for tcp.");

int
client_init(PyObject *module, module_state *st)
{
    return handle_init(module, "aiflow_ext._core.Client", Client_new,
                       Client_methods, Client__doc__, &st->Client_type);
}
