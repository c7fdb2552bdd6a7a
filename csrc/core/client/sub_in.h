/* sub_in.h - what sub.c, sub_stream.c and sub_fd.c share.  Nobody else
 * includes it.
 */
#ifndef AIF_SUB_IN_H
#define AIF_SUB_IN_H

#include "client/client.h"
#include "client/dealer.h"
#include "base/guard.h"

#include <stdatomic.h>

typedef struct {
    uint64_t number;  /* the caller's name for it */
    aif_buf patterns; /* as in the frame */
    _Atomic uint64_t cursor;
    _Atomic uint64_t
        log_id;        /* of the log that it is a cursor of; 0: not known */
    uint64_t id;       /* of the SUBSCRIBE that counts */
    uint64_t received; /* bytes of EVENTS taken since that SUBSCRIBE */
    uint64_t told;     /* of them, as the last CREDIT said */
    uint32_t window;   /* that may be under way, as we said last */
    bool live;         /* SUBSCRIBED came */
    int64_t due;       /* when to renew or, not live, to SUBSCRIBE (again) */
    int64_t patience;  /* before the same SUBSCRIBE is sent again */
} aif_stream;

typedef struct aif_kept {
    struct aif_kept *next;
    aif_port_msg msg;
} aif_kept;

struct aif_sub {
    aif_guard guard;
    aif_dealer dealer;
    aif_buf out;
    aif_port_msg msg;
    pthread_mutex_t
        table; /* held to change streams, or to read from outside */
    aif_stream **streams;
    size_t n;
    size_t cap;
    uint64_t last; /* number given */
    bool hints;
    aif_kept *kept; /* frames for the next call, the first of them */
    aif_kept **kept_end;
    int fds[2]; /* zmq's, of the connection that there is */
    int epoll;  /* of those and the timer */
    int timer;  /* wakes who only watches the fd */
};

/* What one aif_sub_next is collecting, of one stream. */
typedef struct {
    aif_batch *out;
    size_t events; /* that out had before */
    size_t bytes;
    aif_stream *of;  /* NULL: none yet */
    uint64_t cursor; /* its cursor before */
    char *hint;
    bool hinted;
    bool full;         /* what is next is not for this call */
    uint64_t ended;    /* the stream that an error has ended */
    aif_stream *opens; /* not NULL: wait for this one's SUBSCRIBED */
} aif_taking;

/* sub_stream.c: one stream. */
AIF_MUST_CHECK aif_err aif_stream_new(const aif_pattern *p, size_t n,
                                      aif_place after, aif_stream **out,
                                      aif_error *e);
void aif_stream_free(aif_stream *st);
/* From its cursor, under a new id: what comes for the old one is old. */
void aif_stream_begin(aif_sub *s, aif_stream *st);
void aif_stream_end(aif_sub *s, aif_stream *st);
/* Renew its lease, or subscribe, when that is due. */
void aif_stream_tend(aif_sub *s, aif_stream *st, int64_t now);
/* Take a frame of n bytes that is for it. */
AIF_MUST_CHECK aif_err aif_stream_take(aif_sub *s, aif_stream *st,
                                       const aif_frame *f, size_t n,
                                       aif_taking *t, aif_error *e);

/* sub_fd.c: one fd for zmq's two and the timer. */
AIF_MUST_CHECK aif_err aif_sub_open_fds(aif_sub *s, aif_error *e);
void aif_sub_close_fds(aif_sub *s);
/* The connection's, once it is there. */
AIF_MUST_CHECK aif_err aif_sub_watch(aif_sub *s, aif_error *e);
/* Before it goes. */
void aif_sub_unwatch(aif_sub *s);
/* When there is something to do even if no frame comes. */
int64_t aif_sub_due(const aif_sub *s);
void aif_sub_arm(aif_sub *s);

#endif
