#include "net/zap.h"

#include "net/port.h"

#include <stdint.h>
#include <stdio.h>
#include <zmq.h>

/* A question's frames; what comes after them are the credentials. */
enum {
    VERSION,
    ID,
    DOMAIN,
    ADDRESS,
    ROUTING_ID,
    MECHANISM,
    CREDENTIALS,
    PARTS
};

#define KEY_BYTES 32

aif_err
aif_zap_open(void *ctx, void **out, aif_error *e)
{
    *out = zmq_socket(ctx, ZMQ_REP);
    if (*out != NULL && aif_port_set(*out, ZMQ_LINGER, 0) &&
        zmq_bind(*out, "inproc://zeromq.zap.01") == 0) {
        return AIF_OK;
    }
    if (*out != NULL) {
        (void)zmq_close(*out);
        *out = NULL;
    }
    return aif_fail(e, AIF_ENOMEM, "a socket for ZAP: %s",
                    zmq_strerror(zmq_errno()));
}

/* All parts of the message: PARTS are kept, the rest is read and dropped. */
static size_t
zap_receive(void *zap, zmq_msg_t parts[static PARTS])
{
    zmq_msg_t rest;
    size_t n = 0;
    bool more = true;

    while (more && n < PARTS &&
           zmq_msg_recv(&parts[n], zap, ZMQ_DONTWAIT) >= 0) {
        more = zmq_msg_more(&parts[n++]);
    }
    while (more && n == PARTS) {
        (void)zmq_msg_init(&rest);
        more =
            zmq_msg_recv(&rest, zap, ZMQ_DONTWAIT) >= 0 && zmq_msg_more(&rest);
        (void)zmq_msg_close(&rest);
    }
    return n;
}

static bool
part_is(zmq_msg_t *part, const char *text)
{
    size_t n = strlen(text);

    return zmq_msg_size(part) == n && memcmp(zmq_msg_data(part), text, n) == 0;
}

static void
zap_read_peer(zmq_msg_t parts[static PARTS], aif_zap_peer *peer)
{
    size_t n = zmq_msg_size(&parts[ADDRESS]);

    n = n < sizeof peer->address ? n : sizeof peer->address - 1;
    memcpy(peer->address, zmq_msg_data(&parts[ADDRESS]), n);
    peer->address[n] = '\0';
    if (part_is(&parts[VERSION], "1.0") &&
        part_is(&parts[MECHANISM], "CURVE") &&
        zmq_msg_size(&parts[CREDENTIALS]) == KEY_BYTES) {
        (void)zmq_z85_encode(peer->key, zmq_msg_data(&parts[CREDENTIALS]),
                             KEY_BYTES);
    }
}

/* Nothing waits for room here: libzmq's end of it has no limit. */
static void
zap_put(void *zap, const char *text, int more)
{
    (void)zmq_send(zap, text, strlen(text), ZMQ_DONTWAIT | more);
}

/* 400 is for good: the peer's libzmq is told, and that socket of it does not
 * try again.  300 closes the connection without a word, and it does. */
static const char *
zap_status(const aif_access *access, const aif_zap_peer *peer)
{
    if (access == NULL) {
        return "300";
    }
    return peer->allowed ? "200" : "400";
}

static void
zap_reply(void *zap, zmq_msg_t *id, const char *code, const aif_zap_peer *peer)
{
    zap_put(zap, "1.0", ZMQ_SNDMORE);
    (void)zmq_send(zap, zmq_msg_data(id), zmq_msg_size(id),
                   ZMQ_DONTWAIT | ZMQ_SNDMORE);
    zap_put(zap, code, ZMQ_SNDMORE);
    zap_put(zap, peer->allowed ? "OK" : "no such key", ZMQ_SNDMORE);
    zap_put(zap, peer->allowed ? peer->key : "", ZMQ_SNDMORE);
    zap_put(zap, "", 0); /* no more properties */
}

bool
aif_zap_answer(void *zap, const aif_access *access, aif_zap_peer *peer)
{
    zmq_msg_t parts[PARTS];
    size_t n;

    *peer = (aif_zap_peer){0};
    for (size_t i = 0; i < PARTS; i++) {
        (void)zmq_msg_init(&parts[i]);
    }
    n = zap_receive(zap, parts);
    if (n == PARTS) {
        zap_read_peer(parts, peer);
    }
    peer->allowed =
        aif_access_find(access, (aif_str){peer->key, strlen(peer->key)}) !=
        NULL;
    if (n > 0) {
        zap_reply(zap, &parts[ID], zap_status(access, peer), peer);
    }
    for (size_t i = 0; i < PARTS; i++) {
        (void)zmq_msg_close(&parts[i]);
    }
    return n > 0;
}
