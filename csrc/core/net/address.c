#include "net/address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *
address_after(const char *uri, const char *scheme)
{
    size_t n = strlen(scheme);

    return strncmp(uri, scheme, n) == 0 ? uri + n : NULL;
}

const char *
aif_address_path(const char *uri)
{
    return address_after(uri, "ipc://");
}

static aif_err
path_check(const char *path, aif_error *e)
{
    size_t n = strlen(path);

    if (n == 0 || path[0] == '@' || path[0] == '*') {
        return aif_fail(e, AIF_EINVAL,
                        "ipc://%s: a path in the file system belongs there, "
                        "as in ipc:///run/aiflow.sock",
                        path);
    }
    if (n > AIF_IPC_PATH_MAX) {
        return aif_fail(e, AIF_EINVAL,
                        "an ipc path of %zu bytes: a socket's has at most %zu "
                        "(%.80s...)",
                        n, AIF_IPC_PATH_MAX, path);
    }
    return AIF_OK;
}

aif_err
aif_address_check(const char *uri, aif_error *e)
{
    const char *path = aif_address_path(uri);
    const char *host = address_after(uri, "tcp://");

    if (path != NULL) {
        return path_check(path, e);
    }
    if (host == NULL || strchr(host, ':') == NULL ||
        strlen(uri) > AIF_URI_MAX) {
        return aif_fail(e, AIF_EINVAL,
                        "%.150s is no address: ipc://PATH or tcp://HOST:PORT "
                        "belongs there",
                        uri);
    }
    return AIF_OK;
}

bool
aif_address_is_tcp(const char *uri)
{
    return address_after(uri, "tcp://") != NULL;
}

bool
aif_address_is_v6(const char *uri)
{
    return strchr(uri, '[') != NULL;
}

bool
aif_address_split(const char *uri, char host[static 64], char port[static 8])
{
    const char *address = address_after(uri, "tcp://");
    const char *colon = address == NULL ? NULL : strrchr(address, ':');
    char *end;
    long n;

    if (colon == NULL || (size_t)(colon - address) >= 64 || colon[1] < '0' ||
        colon[1] > '9') {
        return false;
    }
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = '\0';
    n = strtol(colon + 1, &end, 10);
    if (*end != '\0' || n > 65535) {
        return false;
    }
    (void)snprintf(port, 8, n == 0 ? "*" : "%ld", n);
    return true;
}

const char *
aif_address_loopback(const char *host)
{
    struct in_addr a;

    if (strcmp(host, "localhost") == 0) {
        return "127.0.0.1";
    }
    if (strcmp(host, "[::1]") == 0) {
        return host;
    }
    if (inet_pton(AF_INET, host, &a) == 1 && ntohl(a.s_addr) >> 24 == 127) {
        return host;
    }
    return NULL;
}

/* --- lists of addresses --------------------------------------------------- */

/* Where the address at p ends; *next: where another begins, or NULL. */
static const char *
address_end(const char *p, const char **next)
{
    const char *comma = strchr(p, ',');

    for (; comma != NULL; comma = strchr(comma + 1, ',')) {
        const char *after = comma + 1 + strspn(comma + 1, " ");

        if (aif_address_path(after) != NULL || aif_address_is_tcp(after)) {
            *next = after;
            return comma;
        }
    }
    *next = NULL;
    return p + strlen(p);
}

static aif_err
addresses_add(aif_addresses *out, const char *p, size_t n, aif_error *e)
{
    char *uri = out->uri[out->n];

    if (out->n == AIF_ADDRESSES_MAX) {
        return aif_fail(e, AIF_EINVAL, "more than %d addresses",
                        AIF_ADDRESSES_MAX);
    }
    if (n > AIF_URI_MAX) {
        return aif_fail(e, AIF_EINVAL,
                        "an address of %zu bytes: %d are the most (%.80s...)",
                        n, AIF_URI_MAX, p);
    }
    memcpy(uri, p, n);
    uri[n] = '\0';
    out->n++;
    return aif_address_check(uri, e);
}

static void
addresses_name(aif_addresses *out)
{
    size_t used = 0;

    for (size_t i = 0; i < out->n && used < sizeof out->names; i++) {
        used += (size_t)snprintf(out->names + used, sizeof out->names - used,
                                 "%s%s", i == 0 ? "" : ", ", out->uri[i]);
    }
}

aif_err
aif_addresses_parse(const char *text, aif_addresses *out, aif_error *e)
{
    const char *p = text;
    const char *next;
    aif_err err = AIF_OK;

    *out = (aif_addresses){0};
    while (err == AIF_OK && p != NULL) {
        const char *end = address_end(p, &next);

        err = addresses_add(out, p, (size_t)(end - p), e);
        p = next;
    }
    addresses_name(out);
    return err;
}
