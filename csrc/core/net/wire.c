/* wire.c - the happy path: a head of 12 bytes, then the fields that the
 * kind's row in AIF_KINDS names, in the order of their bits, then the tail.
 *
 * It fails only on what a peer sent: a foreign head, a kind or code that does
 * not exist, a field that is cut or against its limit, bytes after the end.
 */
#include "net/wire.h"

#define TAILS                                                                 \
    (AIF_F_EVENTS | AIF_F_OFFSETS | AIF_F_PATTERNS | AIF_F_COUNTS |           \
     AIF_F_CURSORS)
#define SQLSTATE_MAX 5
#define ERROR_TEXT_MAX 239 /* aif_error's, without the NUL */
#define EVENT_OVERHEAD 64  /* three u64, seven lengths: 52 */

static const struct {
    aif_kind kind;
    unsigned fields;
    const char *name;
} kinds[] = {
#define X(name, byte, fields) {AIF_K_##name, fields, #name},
    AIF_KINDS(X)
#undef X
};

/* The codes on the wire are the numbers of err.h: they stay as they are. */
_Static_assert(AIF_ENOMEM == 1 && AIF_EINVAL == 2 && AIF_ESTORE == 3 &&
                   AIF_ECONFLICT == 4 && AIF_ECORRUPT == 5 &&
                   AIF_EPROTO == 6 && AIF_ETIMEOUT == 7 && AIF_ECLOSED == 8 &&
                   AIF_EFORKED == 9 && AIF_ERETENTION == 10 &&
                   AIF_EDENIED == 11 && AIF_EMFILE == 12 &&
                   AIF_EREPLACED == 13,
               "docs/protocol.md lists these");

/* The row of a kind; -1: there is none. */
static int
wire_row(unsigned kind)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (kinds[i].kind == kind) {
            return (int)i;
        }
    }
    return -1;
}

const char *
aif_kind_name(aif_kind kind)
{
    int i = wire_row(kind);

    return i < 0 ? "?" : kinds[i].name;
}

static aif_err
wire_put_head(const aif_frame *f, aif_buf *out, aif_error *e)
{
    const uint8_t head[4] = {AIF_WIRE_MAGIC, AIF_WIRE_VERSION,
                             (uint8_t)f->kind, 0};
    aif_err err = aif_buf_put(out, head, sizeof head, e);

    return err != AIF_OK ? err : aif_buf_u64(out, f->id, e);
}

static aif_err
wire_put_code(const aif_frame *f, aif_buf *out, aif_error *e)
{
    aif_err err = aif_buf_u8(out, (uint8_t)f->code, e);

    return err != AIF_OK ? err : aif_buf_str(out, f->sqlstate, e);
}

static aif_err
wire_put_fields(const aif_frame *f, unsigned fields, aif_buf *out,
                aif_error *e)
{
    aif_err err = wire_put_head(f, out, e);

    if (err == AIF_OK && (fields & AIF_F_FROM)) {
        err = aif_buf_u64(out, f->from, e);
    }
    if (err == AIF_OK && (fields & AIF_F_TO)) {
        err = aif_buf_u64(out, f->to, e);
    }
    if (err == AIF_OK && (fields & AIF_F_MAX)) {
        err = aif_buf_u32(out, f->max, e);
    }
    if (err == AIF_OK && (fields & AIF_F_FLAG)) {
        err = aif_buf_u8(out, f->flag, e);
    }
    if (err == AIF_OK && (fields & AIF_F_CODE)) {
        err = wire_put_code(f, out, e);
    }
    if (err == AIF_OK && (fields & AIF_F_TEXT)) {
        err = aif_buf_str(out, f->text, e);
    }
    if (err == AIF_OK && (fields & AIF_F_HOLDER)) {
        err = aif_buf_u64(out, f->holder, e);
    }
    return err;
}

aif_err
aif_frame_encode(const aif_frame *f, aif_buf *out, aif_error *e)
{
    int i = wire_row(f->kind);

    out->n = 0;
    if (i < 0) {
        return aif_fail(e, AIF_EINVAL, "no frame has the kind %d", f->kind);
    }
    return wire_put_fields(f, kinds[i].fields, out, e);
}

/* The head is read even where it is another version's: its id says to whom
 * the refusal goes. */
static aif_err
wire_get_head(aif_reader *in, aif_frame *f, unsigned *fields, aif_error *e)
{
    uint8_t head[4] = {0};
    aif_err err = AIF_OK;
    int i;

    for (i = 0; err == AIF_OK && i < 4; i++) {
        err = aif_read_u8(in, &head[i], e);
    }
    if (err == AIF_OK && head[0] != AIF_WIRE_MAGIC) {
        err = aif_fail(e, AIF_EPROTO, "not a frame: it begins with %#x",
                       head[0]);
    }
    if (err == AIF_OK) {
        err = aif_read_u64(in, &f->id, e);
    }
    if (err != AIF_OK) {
        return err;
    }
    if (head[1] != AIF_WIRE_VERSION) {
        return aif_fail(e, AIF_EPROTO,
                        "protocol version %d: %d is spoken here", head[1],
                        AIF_WIRE_VERSION);
    }
    i = wire_row(head[2]);
    if (i < 0 || head[3] != 0) {
        return aif_fail(e, AIF_EPROTO, "no such kind of frame: %#x %#x",
                        head[2], head[3]);
    }
    f->kind = kinds[i].kind;
    *fields = kinds[i].fields;
    return AIF_OK;
}

static aif_err
wire_get_flag(aif_reader *in, aif_frame *f, aif_error *e)
{
    aif_err err = aif_read_u8(in, &f->flag, e);

    if (err == AIF_OK && f->flag > 1) {
        err = aif_fail(e, AIF_EPROTO, "a flag of %d: 0 or 1 belong", f->flag);
    }
    return err;
}

static aif_err
wire_get_code(aif_reader *in, aif_frame *f, aif_error *e)
{
    uint8_t code;
    aif_err err = aif_read_u8(in, &code, e);

    if (err == AIF_OK && (code == AIF_OK || code >= AIF_ERR_COUNT)) {
        err = aif_fail(e, AIF_EPROTO, "no such error code: %d", code);
    }
    if (err == AIF_OK) {
        f->code = (aif_err)code;
        err = aif_read_str(in, SQLSTATE_MAX, &f->sqlstate, e);
    }
    return err;
}

static size_t
wire_text_max(aif_kind kind)
{
    switch (kind) {
    case AIF_K_ERROR:
        return ERROR_TEXT_MAX;
    case AIF_K_STATUSED:
        return AIF_STATUS_MAX;
    case AIF_K_SEQUENCE:
        return AIF_PRODUCER_MAX;
    case AIF_K_TAKE:
    case AIF_K_MOVE:
    case AIF_K_FORGET:
        return AIF_NAME_MAX;
    default:
        return AIF_HINT_MAX;
    }
}

/* A hint becomes a C string, so it is checked; an error's text may be cut in
 * the middle of a character. */
static aif_err
wire_get_text(aif_reader *in, aif_frame *f, aif_error *e)
{
    size_t max = wire_text_max(f->kind);
    aif_err err = aif_read_str(in, max, &f->text, e);

    if (err == AIF_OK && f->kind != AIF_K_ERROR &&
        aif_text_check(aif_kind_name(f->kind), f->text, 0, max, e) != AIF_OK) {
        err = e->code = AIF_EPROTO;
    }
    return err;
}

static aif_err
wire_get_fields(aif_reader *in, unsigned fields, aif_frame *f, aif_error *e)
{
    aif_err err = AIF_OK;

    if (fields & AIF_F_FROM) {
        err = aif_read_u64(in, &f->from, e);
    }
    if (err == AIF_OK && (fields & AIF_F_TO)) {
        err = aif_read_u64(in, &f->to, e);
    }
    if (err == AIF_OK && (fields & AIF_F_MAX)) {
        err = aif_read_u32(in, &f->max, e);
    }
    if (err == AIF_OK && (fields & AIF_F_FLAG)) {
        err = wire_get_flag(in, f, e);
    }
    if (err == AIF_OK && (fields & AIF_F_CODE)) {
        err = wire_get_code(in, f, e);
    }
    if (err == AIF_OK && (fields & AIF_F_TEXT)) {
        err = wire_get_text(in, f, e);
    }
    if (err == AIF_OK && (fields & AIF_F_HOLDER)) {
        err = aif_read_u64(in, &f->holder, e);
    }
    return err;
}

/* What only one kind of frame has to keep to. */
static aif_err
wire_check(const aif_frame *f, unsigned fields, aif_error *e)
{
    if (!(fields & TAILS) && f->tail.n > 0) {
        return aif_fail(e, AIF_EPROTO, "%zu bytes after the end of %s",
                        f->tail.n, aif_kind_name(f->kind));
    }
    if ((f->kind == AIF_K_SUBSCRIBE || f->kind == AIF_K_CREDIT) &&
        (f->max == 0 || f->max > AIF_WINDOW_MAX)) {
        return aif_fail(e, AIF_EPROTO, "a window of %u bytes: 1 to %u belong",
                        f->max, AIF_WINDOW_MAX);
    }
    if ((fields & AIF_F_HOLDER) &&
        (f->holder == 0 || f->holder > (uint64_t)INT64_MAX)) {
        return aif_fail(e, AIF_EPROTO, "a holder of %llu: 1 to %lld belong",
                        (unsigned long long)f->holder, (long long)INT64_MAX);
    }
    if (f->kind == AIF_K_EVENTS && f->to < f->from) {
        return aif_fail(e, AIF_EPROTO, "events from %llu back to %llu",
                        (unsigned long long)f->from,
                        (unsigned long long)f->to);
    }
    return AIF_OK;
}

aif_err
aif_frame_decode(const void *p, size_t n, aif_frame *f, aif_error *e)
{
    unsigned fields = 0;
    aif_err err;

    *f = (aif_frame){.tail = {p, n}};
    if (n > AIF_FRAME_MAX) {
        return aif_fail(e, AIF_EPROTO, "a frame of %zu bytes: %u are the most",
                        n, AIF_FRAME_MAX);
    }
    err = wire_get_head(&f->tail, f, &fields, e);
    if (err == AIF_OK) {
        err = wire_get_fields(&f->tail, fields, f, e);
    }
    return err != AIF_OK ? err : wire_check(f, fields, e);
}

aif_err
aif_wire_put_pattern(const aif_pattern *p, aif_buf *out, aif_error *e)
{
    aif_err err = aif_buf_str(out, p->ns, e);

    if (err == AIF_OK) {
        err = aif_buf_str(out, p->key, e);
    }
    if (err == AIF_OK) {
        err = aif_buf_str(out, p->type, e);
    }
    if (err == AIF_OK) {
        err = aif_buf_str(out, p->sender, e);
    }
    return err != AIF_OK ? err : aif_buf_str(out, p->context, e);
}

aif_err
aif_wire_get_pattern(aif_reader *in, aif_pattern *p, aif_error *e)
{
    aif_err err = aif_read_str(in, AIF_NAME_MAX + 1, &p->ns, e);

    if (err == AIF_OK) {
        err = aif_read_str(in, AIF_KEY_MAX + 1, &p->key, e);
    }
    if (err == AIF_OK) {
        err = aif_read_str(in, AIF_NAME_MAX + 1, &p->type, e);
    }
    if (err == AIF_OK) {
        err = aif_read_str(in, AIF_NAME_MAX + 1, &p->sender, e);
    }
    if (err == AIF_OK) {
        err = aif_read_str(in, AIF_CONTEXT_MAX + 1, &p->context, e);
    }
    if (err == AIF_OK && aif_pattern_check(p, e) != AIF_OK) {
        err = e->code = AIF_EPROTO;
    }
    return err;
}

aif_err
aif_wire_get_patterns(aif_reader *in, size_t min, size_t max, aif_pattern *out,
                      size_t *n, aif_error *e)
{
    aif_err err = AIF_OK;

    for (*n = 0; err == AIF_OK && in->n > 0 && *n < max; ++*n) {
        err = aif_wire_get_pattern(in, &out[*n], e);
    }
    if (err == AIF_OK && (in->n > 0 || *n < min)) {
        err = aif_fail(e, AIF_EPROTO, "%s patterns: %zu to %zu belong",
                       in->n > 0 ? "too many" : "too few", min, max);
    }
    return err;
}

size_t
aif_wire_event_size(const aif_event *ev)
{
    return EVENT_OVERHEAD + aif_event_bytes(ev);
}
