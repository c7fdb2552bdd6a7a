#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const texts[AIF_ERR_COUNT] = {"ok",
#define X(code, text) text,
                                                 AIF_ERRORS(X)
#undef X
};

const char *
aif_err_text(aif_err code)
{
    return texts[code];
}

aif_err
aif_err_of_path(int number)
{
    switch (number) {
    case EMFILE:
    case ENFILE:
        return AIF_EMFILE;
    case ENOMEM:
    case ENOBUFS:
        return AIF_ENOMEM;
    case ENOSPC:
    case EDQUOT:
    case EIO:
    case EROFS:
    case EINTR:
    case ENOLCK:
    case ESTALE:
        return AIF_ESTORE;
    default:
        return AIF_EINVAL;
    }
}

/* A text that was cut may end inside a UTF-8 character: drop that one. */
static void
drop_cut_character(char *text, size_t n)
{
    size_t start = n;

    while (start > 0 && ((unsigned char)text[start - 1] & 0xC0) == 0x80) {
        start--;
    }
    if (start > 0 && ((unsigned char)text[start - 1] & 0xC0) == 0xC0) {
        text[start - 1] = '\0';
    }
}

aif_err
aif_fail(aif_error *e, aif_err code, const char *fmt, ...)
{
    va_list ap;
    int n;

    e->code = code;
    e->busy = false;
    e->sqlstate[0] = '\0';
    va_start(ap, fmt);
    n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    if (n >= (int)sizeof e->text) {
        drop_cut_character(e->text, sizeof e->text - 1);
    }
    return code;
}
