/* err.h - the one error type of the core.
 *
 * A function that can fail returns an aif_err and takes an aif_error as its
 * last argument.  The caller owns the aif_error; it is written only on
 * failure.
 */
#ifndef AIF_ERR_H
#define AIF_ERR_H

#include <stdbool.h>

#define AIF_ERRORS(X)                                                         \
    X(ENOMEM, "out of memory")                                                \
    X(EINVAL, "invalid argument")                                             \
    X(ESTORE, "storage failed")                                               \
    X(ECONFLICT, "somebody else holds it")                                    \
    X(ECORRUPT, "stored data is corrupt")                                     \
    X(EPROTO, "malformed frame")                                              \
    X(ETIMEOUT, "no answer in time")                                          \
    X(ECLOSED, "handle is closed")                                            \
    X(EFORKED, "handle was opened in another process")                        \
    X(ERETENTION, "events were let go")                                       \
    X(EDENIED, "access denied")                                               \
    X(EMFILE, "no file descriptors left")                                     \
    X(EREPLACED, "the log was replaced")

typedef enum {
    AIF_OK = 0,
#define X(code, text) AIF_##code,
    AIF_ERRORS(X)
#undef X
        AIF_ERR_COUNT
} aif_err;

typedef struct {
    aif_err code;
    bool busy;        /* a wait for others was given up, and nothing done, so
                         that the caller can look after its signals: ask again
                         (aif_log_open_hurried) */
    char sqlstate[6]; /* ESTORE from PostgreSQL or MySQL: five letters */
    char text[240];
} aif_error;

#define AIF_MUST_CHECK __attribute__((warn_unused_result))

/* Fill *e and return its code: `return aif_fail(e, AIF_EINVAL, "...", x);` */
aif_err aif_fail(aif_error *e, aif_err code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
const char *aif_err_text(aif_err code);
/* What errno says of a path.  EINVAL: something else is there, or the folder
 * is not; else it may pass: EMFILE, ENOMEM, ESTORE. */
aif_err aif_err_of_path(int number);

#endif
