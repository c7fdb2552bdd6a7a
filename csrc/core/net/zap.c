#include "net/zap.h"

#include "net/port.h"

#include <stdint.h>

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

/* All parts of the message: PARTS are kept, the rest is read and dropped. */
static size_t
zap_receive(void *zap, aif_port_msg parts[static PARTS])
{
    aif_port_msg rest;
    size_t n = 0;
    bool more = true;

    while (more && n < PARTS && aif_port_part(zap, &parts[n])) {
        more = aif_port_msg_more(&parts[n++]);
    }
    while (more && n == PARTS) {
        aif_port_msg_init(&rest);
        more = aif_port_part(zap, &rest) && aif_port_msg_more(&rest);
        aif_port_msg_fini(&rest);
    }
    return n;
}

static void
zap_read_peer(const aif_port_msg parts[static PARTS], aif_zap_peer *peer)
{
    aif_str address = aif_port_msg_bytes(&parts[ADDRESS]);
    aif_str key = aif_port_msg_bytes(&parts[CREDENTIALS]);

    if (address.n >= sizeof peer->address) {
        address.n = sizeof peer->address - 1;
    }
    memcpy(peer->address, address.p, address.n);
    peer->address[address.n] = '\0';
    if (aif_str_eq(aif_port_msg_bytes(&parts[VERSION]), AIF_STR("1.0")) &&
        aif_str_eq(aif_port_msg_bytes(&parts[MECHANISM]), AIF_STR("CURVE")) &&
        key.n == KEY_BYTES) {
        aif_port_key_text((const uint8_t *)key.p, peer->key);
    }
}

/* Nothing waits for room here: libzmq's end of it has no limit. */
static void
zap_put(void *zap, const char *text, bool more)
{
    aif_port_send(zap, (aif_str){text, strlen(text)}, more);
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
zap_reply(void *zap, const aif_port_msg *id, const char *code,
          const aif_zap_peer *peer)
{
    zap_put(zap, "1.0", true);
    aif_port_send(zap, aif_port_msg_bytes(id), true);
    zap_put(zap, code, true);
    zap_put(zap, peer->allowed ? "OK" : "no such key", true);
    zap_put(zap, peer->allowed ? peer->key : "", true);
    zap_put(zap, "", false); /* no more properties */
}

bool
aif_zap_answer(void *zap, const aif_access *access, aif_zap_peer *peer)
{
    aif_port_msg parts[PARTS];
    size_t n;

    *peer = (aif_zap_peer){0};
    for (size_t i = 0; i < PARTS; i++) {
        aif_port_msg_init(&parts[i]);
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
        aif_port_msg_fini(&parts[i]);
    }
    return n > 0;
}
