/* mysql_uri.c - take a URI apart, in place.
 *
 * Whoever forgets to write %40 or %2F in a password moves its rest into the
 * host, the port or the database, which libmariadb's messages quote: what is
 * odd there is refused before.
 */
#include "db/mysql_uri.h"

#include <stdlib.h>
#include <string.h>

static int
hex(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c < '0' ? NULL : strchr(digits, c | 0x20);

    return at == NULL ? -1 : (int)(at - digits);
}

/* Percent-decode in place; false: a % without two digits, or a NUL. */
static bool
decode(char *text)
{
    char *to = text;

    for (const char *from = text; *from != '\0'; from++) {
        if (*from == '%') {
            const int high = hex(from[1]);
            const int low = high < 0 ? -1 : hex(from[2]);

            if (low < 0 || high + low == 0) {
                return false;
            }
            *to++ = (char)(high << 4 | low);
            from += 2;
        } else {
            *to++ = *from;
        }
    }
    *to = '\0';
    return true;
}

/* Ends text at the first c; returns what is behind it, or NULL. */
static char *
cut(char *text, char c)
{
    char *at = strchr(text, c);

    if (at != NULL) {
        *at++ = '\0';
    }
    return at;
}

static bool
take_user(char *text, aif_mysql_uri *out)
{
    char *password = cut(text, ':');

    out->user = text[0] == '\0' ? NULL : text;
    out->password = password;
    return decode(text) && (password == NULL || decode(password));
}

static bool
take_port(const char *text, aif_mysql_uri *out)
{
    const size_t n = strlen(text);

    if (n == 0 || n > 5 || strspn(text, "0123456789") != n) {
        return false;
    }
    out->port = (unsigned)strtoul(text, NULL, 10);
    return out->port >= 1 && out->port <= 65535;
}

/* "host", "host:port" or "[::1]:port". */
static bool
take_host(char *text, aif_mysql_uri *out)
{
    char *port = text;

    if (text[0] == '[') {
        text++;
        port = cut(text, ']');
        if (port == NULL || (port[0] != ':' && port[0] != '\0')) {
            return false;
        }
    }
    port = cut(port, ':');
    if (text[0] != '\0') {
        out->host = text;
    }
    return port == NULL || take_port(port, out);
}

static bool
take_authority(char *text, aif_mysql_uri *out)
{
    char *host = cut(text, '@');

    if (host == NULL) {
        return take_host(text, out);
    }
    return strchr(host, '@') == NULL && take_host(host, out) &&
           take_user(text, out);
}

static bool
take_ssl(const char *value, aif_mysql_uri *out)
{
    out->tls = true;
    out->verify = out->verify || strcmp(value, "verify") == 0;
    return strcmp(value, "required") == 0 || strcmp(value, "verify") == 0;
}

static bool
take_parameter(char *text, aif_mysql_uri *out)
{
    const struct {
        const char *name;
        const char **field;
    } paths[] = {
        {"unix_socket", &out->unix_socket},
        {"ssl_ca", &out->ca},
        {"ssl_cert", &out->cert},
        {"ssl_key", &out->key},
    };
    char *value = cut(text, '=');

    if (value == NULL || !decode(value)) {
        return false;
    }
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        if (strcmp(text, paths[i].name) == 0) {
            *paths[i].field = value;
            return value[0] != '\0';
        }
    }
    if (strcmp(text, "durable") == 0) {
        out->relaxed = strcmp(value, "no") == 0;
        return out->relaxed || strcmp(value, "yes") == 0;
    }
    return strcmp(text, "ssl") == 0 && take_ssl(value, out);
}

static bool
take_parameters(char *text, aif_mysql_uri *out)
{
    bool good = true;
    char *next;

    for (; good && text != NULL && text[0] != '\0'; text = next) {
        next = cut(text, '&');
        good = take_parameter(text, out);
    }
    out->verify = out->verify || out->ca != NULL;
    out->tls = out->tls || out->verify || out->cert != NULL;
    return good;
}

static aif_err
take_rest(char *text, aif_mysql_uri *out, aif_error *e)
{
    char *parameters = cut(text, '?');
    char *database = cut(text, '/');

    if (database == NULL || database[0] == '\0' ||
        strpbrk(database, "@/") != NULL || !decode(database) ||
        !take_authority(text, out)) {
        return aif_fail(e, AIF_EINVAL,
                        "not a MySQL URI: write mysql://user:password@host:"
                        "port/database, with %%40 for @ and %%2F for / in the "
                        "password, and without a driver (+...)");
    }
    out->database = database;
    return take_parameters(parameters, out)
               ? AIF_OK
               : aif_fail(e, AIF_EINVAL,
                          "a MySQL URI may end in ?unix_socket=PATH, "
                          "ssl=required or verify, ssl_ca=, ssl_cert= or "
                          "ssl_key=PATH, durable=no, with & between them");
}

aif_err
aif_mysql_uri_parse(char *text, aif_mysql_uri *out, aif_error *e)
{
    static const char *const schemes[] = {"mysql://", "mariadb://"};
    char nothing[] = "";

    *out = (aif_mysql_uri){.host = "127.0.0.1", .port = 3306};
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        if (strncmp(text, schemes[i], strlen(schemes[i])) == 0) {
            return take_rest(text + strlen(schemes[i]), out, e);
        }
    }
    return take_rest(nothing, out, e);
}
