#include "event/cursor.h"

#include "event/pattern.h"
#include "event/query.h"

/* So much of a name as an error's text has room for. */
#define SHOWN(name) ((int)((name).n < 100 ? (name).n : 100)), (name).p

aif_err
aif_cursor_check(const aif_cursor *c, aif_error *e)
{
    const aif_str any = AIF_STR("*");
    const aif_pattern of = {c->ns, any, any, any, any};
    aif_err err = aif_text_check("cursor", c->name, 1, AIF_NAME_MAX, e);

    return err != AIF_OK ? err : aif_pattern_check(&of, e);
}

aif_err
aif_cursor_begin(const aif_cursor *c, bool there, uint64_t was,
                 uint64_t others, uint64_t head, uint64_t *offset,
                 aif_error *e)
{
    const bool now = c->offset == AIF_AFTER_NOW;

    if (!there && others >= AIF_CURSORS_MAX) {
        return aif_fail(e, AIF_ECONFLICT,
                        "the log has %d cursors, which are the most: delete "
                        "some (aiflow cursors list, aiflow cursors delete)",
                        AIF_CURSORS_MAX);
    }
    if (there && was > head) {
        return aif_fail(e, AIF_EREPLACED,
                        "cursor '%.*s' is at offset %llu, and the log ends at "
                        "%llu: it was replaced; delete the cursor to begin "
                        "again (aiflow cursors delete)",
                        SHOWN(c->name), (unsigned long long)was,
                        (unsigned long long)head);
    }
    if (!there && !now && c->offset > head) {
        return aif_fail(
            e, AIF_EINVAL, "offset %llu is beyond the newest one, %llu",
            (unsigned long long)c->offset, (unsigned long long)head);
    }
    *offset = there ? was : now ? head : c->offset;
    return AIF_OK;
}

aif_err
aif_cursor_held(const aif_cursor *c, uint64_t holder, aif_error *e)
{
    if (holder == c->holder) {
        return AIF_OK;
    }
    return aif_fail(e, AIF_ECONFLICT,
                    holder == 0 ? "cursor '%.*s' was deleted"
                                : "cursor '%.*s' was taken by another "
                                  "subscription",
                    SHOWN(c->name));
}
