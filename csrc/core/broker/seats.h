/* seats.h - which connections there are, how many there may be, and which are
 * closed.
 *
 * In:  libzmq's news of connections, the messages that were taken, and how
 *      many bytes the kernel received for each connection.
 * Out: a bound on connections; a line and a count for each connection that
 *      ends before its first frame (seats.c); the end of a connection that
 *      sends parts of a message without end (parts.c).
 * The two files share the table of seats, one seat a descriptor: seats.c fills
 * it, and parts.c judges who sits there.  The broker's thread only.
 */
#ifndef AIF_SEATS_H
#define AIF_SEATS_H

#include "broker/status.h"
#include "net/listen.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct {
    bool open;
    bool spoke;       /* it has sent a frame */
    bool told;        /* a line has said why it was not let in */
    uint64_t heard;   /* the round in which it sent a frame last */
    char address[47]; /* for people to read */
    /* Of parts.c: */
    bool took;       /* a whole message of it was taken since the last note */
    ino_t inode;     /* of its socket */
    uint64_t before; /* bytes that it sent before that message's end */
    uint64_t read;   /* bytes that libzmq had read at the last note */
} aif_seat;

/* Of parts.c. */
typedef struct {
    int statm;         /* /proc/self/statm */
    uint64_t resident; /* bytes of memory at the last look */
    int64_t due;       /* the next look */
    bool noted;        /* it is noted how much each connection had sent, and */
    size_t drained;    /* so many messages were taken since then */
} aif_parts;

typedef struct aif_seats {
    const aif_listen *listen;
    aif_status *status;
    bool tcp; /* else ipc */
    void *monitor;
    bool news;       /* of the monitor: there may be some */
    uint64_t round;  /* of news, of which some may still be to be taken */
    aif_seat *seats; /* by descriptor */
    size_t cap;
    size_t n;    /* of them that are open */
    size_t most; /* that may be open */
    int listener;
    bool shielded;      /* new connections have to wait */
    const char *failed; /* why the connection that ends next did not get in */
    aif_parts parts;
} aif_seats;

/* It may be bound later; tcp: it is going to be of that kind. */
void aif_seats_init(aif_seats *s, const aif_listen *listen, bool tcp,
                    aif_status *status);
/* Before the router is bound. */
AIF_MUST_CHECK aif_err aif_seats_open(aif_seats *s, void *ctx, void *router,
                                      aif_error *e);
/* After the router is closed. */
void aif_seats_close(aif_seats *s);
/* Before messages are taken; news: the monitor's descriptor tells of some. */
void aif_seats_begin(aif_seats *s, bool news);
/* Take the news of connections, and keep to the bound. */
void aif_seats_tend(aif_seats *s);
/* A connection from this address is not let in, because of its key. */
void aif_seats_unknown(aif_seats *s, const char *address, const char *key);
/* A message was taken.  Whose message is ours is no stranger any more. */
void aif_seats_took(aif_seats *s, const aif_message *m);

/* parts.c.  Before the router is bound. */
void aif_parts_open(aif_seats *s);
void aif_parts_close(aif_seats *s);
void aif_parts_accepted(aif_seat *seat, int fd);
/* Look whether somebody sends endless parts; it is cheap where it is not time
 * to.  dry: the last turn left no whole message to be taken. */
void aif_parts_look(aif_seats *s, bool dry);
/* How many ms the broker may wait, which would wait for `due` ms (-1: for
 * ever): no longer than until the next look. */
long aif_parts_wait(const aif_seats *s, long due);

#endif
