/* ask.c - questions about a part of the log.  The broker looks at so much of
 * it in one answer; each method gives (answer, where to go on or None).
 */
#include "ask.h"

#include "convert.h"

#include "client/client.h"

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

static PyObject *
list_page(PyObject *self, aif_query *q, size_t max, int timeout)
{
    aif_client *client = handle_enter(self);
    aif_batch batch = {0};
    PyObject *page;
    bool more;
    aif_error e;
    aif_err err;

    if (client == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_client_list(client, q, max, &batch, &more, timeout, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    page = err == AIF_OK
               ? from_part(from_batch(state_of(self), &batch), q->after, more)
               : raise_error(state_of(self), &e);
    aif_batch_fini(&batch);
    return page;
}

const char Client_list__doc__[] =
    "list($self, /, after, max, patterns, timeout_ms, upto=None, kept=False)\n"
    "--\n\n"
    "(events, next): at most max of those beyond offset after, and not beyond "
    "upto,\nthat one of patterns matches (None: all).\n\n"
    "next is where to go on, None at the end.  A page may be empty and yet "
    "not be\nthe last.  kept: events that were let go are no error.";

PyObject *
Client_list(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const char *const names[] = {
        "after", "max", "patterns", "timeout_ms", "upto", "kept", NULL};
    PyObject *a[6];
    PyObject *page;
    query in;
    size_t max;
    bool kept;
    int timeout;

    if (bind_args("list", names, 4, &(call_args){args, nargs, kwnames}, a) <
            0 ||
        to_size(a[1], "max", &max) < 0 ||
        to_ms(a[3], "timeout_ms", &timeout) < 0 ||
        to_bool(a[5], "kept", &kept) < 0 ||
        to_query(a[2], a[0], a[4], &in) < 0) {
        return NULL;
    }
    in.q.kept = kept;
    page = list_page(self, &in.q, max, timeout);
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

typedef aif_err number_of(aif_client *c, aif_query *q, uint64_t *n, bool *more,
                          int timeout_ms, aif_error *e);

static PyObject *
ask_number(PyObject *self, number_of *ask, aif_query *q, int timeout)
{
    aif_client *client = handle_enter(self);
    uint64_t n;
    bool more;
    aif_error e;
    aif_err err;

    if (client == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = ask(client, q, &n, &more, timeout, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    return err == AIF_OK
               ? from_part(PyLong_FromUnsignedLongLong(n),
                           ask == aif_client_last ? q->upto : q->after, more)
               : raise_error(state_of(self), &e);
}

static PyObject *
number_method(PyObject *self, const char *function, number_of *ask,
              const call_args *call)
{
    PyObject *n;
    query in;
    int timeout;

    if (bind_query(function, call, &in, &timeout) < 0) {
        return NULL;
    }
    n = ask_number(self, ask, &in.q, timeout);
    query_fini(&in);
    return n;
}

const char Client_count__doc__[] =
    "count($self, /, after, patterns, timeout_ms, upto=None)\n--\n\n"
    "(n, next): how many of those beyond offset after, and not beyond upto, "
    "match.\n\n"
    "They are the first part of them; next is after which to ask for the "
    "rest,\nNone at the end.";

PyObject *
Client_count(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    return number_method(self, "count", aif_client_count,
                         &(call_args){args, nargs, kwnames});
}

const char Client_last__doc__[] =
    "last($self, /, after, patterns, timeout_ms, upto=None)\n--\n\n"
    "(offset, next): the newest beyond offset after, and not beyond upto, "
    "that\nmatches.\n\n"
    "0: none in the last part of them; next is up to which to ask for the "
    "rest,\nNone when there is none.";

PyObject *
Client_last(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    return number_method(self, "last", aif_client_last,
                         &(call_args){args, nargs, kwnames});
}

static PyObject *
ask_senders(PyObject *self, aif_query *q, int timeout)
{
    aif_client *client = handle_enter(self);
    aif_buf out = {0};
    PyObject *part;
    bool more;
    aif_error e;
    aif_err err;

    if (client == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    err = aif_client_senders(client, q, &out, &more, timeout, &e);
    Py_END_ALLOW_THREADS
    handle_leave(self);
    part = err == AIF_OK ? from_part(from_counts(&out), q->after, more)
                         : raise_error(state_of(self), &e);
    aif_buf_fini(&out);
    return part;
}

const char Client_senders__doc__[] =
    "senders($self, /, after, patterns, timeout_ms, upto=None)\n--\n\n"
    "({sender: n}, next): count() for each sender.";

PyObject *
Client_senders(PyObject *self, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    PyObject *part;
    query in;
    int timeout;

    if (bind_query("senders", &(call_args){args, nargs, kwnames}, &in,
                   &timeout) < 0) {
        return NULL;
    }
    part = ask_senders(self, &in.q, timeout);
    query_fini(&in);
    return part;
}
