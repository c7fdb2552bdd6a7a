#include "net/curve.h"

#include "net/port.h"

#include <stdint.h>

static const char alphabet[] = "0123456789abcdefghijklmnopqrstuvwxyz"
                               "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                               ".-:+=^!/*?&<>()[]{}@%$#";

static aif_err
curve_fail_missing(aif_error *e)
{
    return aif_fail(e, AIF_EINVAL,
                    "this libzmq has no CURVE: one built with libsodium is "
                    "needed for keys");
}

/* Five characters are four bytes: some groups are too large for them. */
static bool
key_group_fits(const char *p)
{
    uint64_t value = 0;

    for (int i = 0; i < 5; i++) {
        const char *at = p[i] == '\0' ? NULL : strchr(alphabet, p[i]);

        if (at == NULL) {
            return false;
        }
        value = value * 85 + (uint64_t)(at - alphabet);
    }
    return value <= UINT32_MAX;
}

aif_err
aif_curve_check(const char *what, aif_str key, aif_error *e)
{
    bool good = key.n == AIF_CURVE_KEY;

    for (size_t i = 0; good && i < AIF_CURVE_KEY; i += 5) {
        good = key_group_fits(key.p + i);
    }
    return good ? AIF_OK
                : aif_fail(e, AIF_EINVAL,
                           "%s is no key: 40 characters of Z85 belong there, "
                           "as `aiflow keys new` writes them",
                           what);
}

static aif_err
key_check_text(const char *what, const char *key, aif_error *e)
{
    return aif_curve_check(what, (aif_str){key, strlen(key)}, e);
}

aif_err
aif_curve_pair(char public[static 41], char secret[static 41], aif_error *e)
{
    public[0] = secret[0] = '\0';
    return aif_port_key_pair(public, secret) ? AIF_OK : curve_fail_missing(e);
}

/* libzmq writes as far as the text is long: its length is checked here. */
aif_err
aif_curve_public(const char *secret, char public[static 41], aif_error *e)
{
    aif_err err = key_check_text("the secret key", secret, e);

    public[0] = '\0';
    if (err == AIF_OK && !aif_port_key_public(secret, public)) {
        err = curve_fail_missing(e);
    }
    return err;
}

aif_err
aif_curve_client(void *socket, const aif_curve *keys, aif_error *e)
{
    aif_err err = key_check_text("the broker's public key", keys->server, e);

    if (err == AIF_OK) {
        err = key_check_text("the public key", keys->public, e);
    }
    if (err == AIF_OK) {
        err = key_check_text("the secret key", keys->secret, e);
    }
    if (err == AIF_OK && !aif_port_curve_client(socket, keys->server,
                                                keys->public, keys->secret)) {
        err = curve_fail_missing(e);
    }
    return err;
}

aif_err
aif_curve_server(void *socket, const char *secret, aif_error *e)
{
    aif_err err = key_check_text("the broker's secret key", secret, e);

    if (err == AIF_OK && !aif_port_curve_server(socket, secret)) {
        err = curve_fail_missing(e);
    }
    return err;
}
