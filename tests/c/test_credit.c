/* Credit: whoever reads gets everything, and what is under way is bounded,
 * whoever else does not read.  First by arithmetic alone, then with a broker
 * and its clients.  AIF_SEED repeats a run. */
#include "broker_fixture.h"

#include "base/clock.h"
#include "broker/subs_in.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SLOWER = 5 };
#else
enum { SLOWER = 1 };
#endif

#define EVENT_MOST (AIF_VALUE_MAX + (8u << 10)) /* bytes, in its frame */
#define FRAME_MOST (AIF_PIECE_BYTES + (8u << 10))
/* What is under way at most, with n subscriptions. */
#define FLIGHT_MOST(n)                                                        \
    (2 * (uint64_t)AIF_FLIGHT_BYTES +                                         \
     (n) * (uint64_t)(AIF_SHARE_TAKER_BYTES + FRAME_MOST))

static uint64_t seed;

/* splitmix64: https://prng.di.unimi.it/splitmix64.c */
static uint64_t
chance(uint64_t n)
{
    uint64_t z = (seed += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (z ^ (z >> 31)) % n;
}

static void
begin_chance(void)
{
    const char *s = getenv("AIF_SEED");

    seed = s == NULL ? 1 : strtoull(s, NULL, 10);
    print_message("AIF_SEED=%llu\n", (unsigned long long)seed);
}

/* -- arithmetic ---------------------------------------------------------- */

enum { PEERS = 400, ANSWER = 28 }; /* bytes of an EVENTS without events */

typedef struct {
    aif_credit credit;
    uint64_t wire;     /* bytes that were sent, and that it has not read */
    uint64_t received; /* bytes that it has read */
    uint64_t told;     /* and that the broker was told of */
    uint64_t backlog;  /* bytes of events that it still has to be sent */
    bool reads;
} peer;

typedef struct {
    peer peers[PEERS];
    _Atomic uint64_t flight;
    uint64_t truth; /* the same, added up by the model */
    int64_t now;
} world;

static void
send_bytes(world *w, peer *p, uint64_t n)
{
    aif_credit_sent(&p->credit, &w->flight, n);
    p->wire += n;
    w->truth += n;
    assert_int_equal(w->flight, w->truth);
    assert_true(w->flight <= FLIGHT_MOST(PEERS));
}

/* One frame, of whole events of up to `event` bytes, where it may have one. */
static bool
serve_peer(world *w, peer *p, uint64_t event)
{
    uint64_t share = aif_credit_share(&p->credit, w->flight, w->now);
    uint64_t n = share < AIF_PIECE_BYTES ? share : AIF_PIECE_BYTES;

    if (p->backlog == 0 || !aif_credit_may(&p->credit, w->flight, w->now)) {
        return false;
    }
    n = n < event ? event : n;
    n = n < p->backlog ? n : p->backlog;
    p->backlog -= n;
    send_bytes(w, p, n);
    return true;
}

static void
say_taken(world *w, peer *p)
{
    w->truth -= p->received - p->told;
    p->told = p->received;
    assert_true(aif_credit_take(&p->credit, &w->flight, p->told, w->now));
    assert_int_equal(w->flight, w->truth);
    send_bytes(w, p, ANSWER);
}

static void
read_some(world *w, peer *p, uint64_t n)
{
    p->received += n;
    p->wire -= n;
    if (p->received - p->told >= AIF_SHARE_TAKER_BYTES / 2 ||
        p->received - p->told >= p->credit.window / 2) {
        say_taken(w, p);
    }
}

static void
open_peer(peer *p)
{
    *p = (peer){.reads = chance(2) == 0};
    p->credit.window = (uint32_t)(1 + chance(AIF_WINDOW_MAX));
}

static void
end_peer(world *w, peer *p)
{
    w->truth -= p->credit.sent - p->told;
    aif_credit_end(&p->credit, &w->flight);
    assert_int_equal(w->flight, w->truth);
}

static void
step(world *w)
{
    peer *p = &w->peers[chance(PEERS)];

    w->now += (int64_t)chance(3);
    switch (chance(64)) {
    case 0: /* a second has passed; who stalls may take something, once */
        if (p->reads || chance(8) == 0) {
            read_some(w, p, p->reads ? p->wire : chance(p->wire + 1));
        }
        say_taken(w, p);
        break;
    case 1:
        p->credit.window = (uint32_t)(1 + chance(AIF_WINDOW_MAX));
        break;
    case 2:
        if (chance(20) == 0) {
            end_peer(w, p);
            open_peer(p);
        }
        break;
    default:
        p->backlog += p->backlog < (4u << 20) ? chance(512u << 10) : 0;
        (void)serve_peer(w, p, 1 + chance(EVENT_MOST));
        if (p->reads) {
            read_some(w, p, chance(2) == 0 ? p->wire : chance(p->wire + 1));
        }
    }
}

/* Those that do not read take a byte, get what they may, and keep it. */
static void
fill(world *w)
{
    for (int i = 0; i < PEERS; i++) {
        if (w->peers[i].reads) { /* so that nothing of it is theirs */
            read_some(w, &w->peers[i], w->peers[i].wire);
            say_taken(w, &w->peers[i]);
        }
    }
    for (int i = 0; i < PEERS; i++) {
        peer *p = &w->peers[i];

        if (!p->reads) {
            p->credit.window = AIF_WINDOW_MAX;
            p->backlog = AIF_WINDOW_MAX;
            say_taken(w, p);
            read_some(w, p, 1);
            say_taken(w, p);
            while (serve_peer(w, p, 1)) {
            }
        }
    }
    assert_true(w->flight >= 2 * (uint64_t)AIF_FLIGHT_BYTES);
}

/* Nothing new comes; who reads has everything in the end. */
static void
expect_all_read(world *w)
{
    bool waiting = true;

    for (int second = 0; waiting; second++) {
        waiting = false;
        assert_true(second < 1000);
        w->now += 1000;
        for (int i = 0; i < PEERS; i++) {
            peer *p = &w->peers[i];

            say_taken(w, p); /* those that read nothing, too */
            if (p->reads) {
                read_some(w, p, p->wire);
                while (serve_peer(w, p, 1)) {
                    read_some(w, p, p->wire);
                }
                waiting = waiting || p->backlog > 0;
            }
        }
    }
}

static void
a_million_steps_keep_the_bound_and_shut_nobody_out(void **state)
{
    world *w = calloc(1, sizeof *w);

    (void)state;
    assert_non_null(w);
    begin_chance();
    w->now = 1000;
    for (int i = 0; i < PEERS; i++) {
        open_peer(&w->peers[i]);
    }
    for (int i = 0; i < 1000000 / SLOWER; i++) {
        step(w);
    }
    fill(w);
    expect_all_read(w);
    assert_true(w->flight >= 2 * (uint64_t)AIF_FLIGHT_BYTES);
    for (int i = 0; i < PEERS; i++) {
        end_peer(w, &w->peers[i]);
    }
    assert_int_equal(w->flight, 0);
    free(w);
}

static void
who_never_reads_costs_a_share_and_one_frame(void **state)
{
    const uint64_t event = 100 << 10;
    world *w = calloc(1, sizeof *w);
    bool sent = true;

    (void)state;
    assert_non_null(w);
    w->now = 1000;
    for (int i = 0; i < PEERS; i++) {
        w->peers[i].credit.window = AIF_WINDOW_MAX;
        w->peers[i].backlog = 2 * AIF_WINDOW_MAX;
    }
    while (sent) {
        sent = false;
        for (int i = 0; i < PEERS; i++) {
            sent = serve_peer(w, &w->peers[i], event) || sent;
        }
    }
    assert_in_range(w->flight, AIF_FLIGHT_BYTES,
                    AIF_FLIGHT_BYTES + AIF_PIECE_BYTES +
                        PEERS * (AIF_SHARE_BYTES + event));
    free(w);
}

/* -- a broker and its clients -------------------------------------------- */

enum { KEY_K, KEY_OTHER, KEY_NEVER };
static const char *const keys[] = {"k", "other", "never"};

enum { EVENTS_MOST = 10000, STREAMS_MOST = 20 };

typedef struct {
    served *s;
    aif_client *client;
    char *value;
    int64_t renew; /* when those that stall say something again */
    uint64_t head;
    uint8_t key[EVENTS_MOST + 1]; /* of the event at each offset */
} story;

/* What one stream has heard. */
typedef struct {
    uint64_t number; /* 0: there is none */
    uint8_t key;
    uint64_t cursor;
} ear;

typedef struct {
    aif_sub *sub;
    ear ears[STREAMS_MOST];
} listener;

static void
story_begin(story *t, served *s)
{
    struct rlimit most;

    (void)getrlimit(RLIMIT_NOFILE, &most); /* 11 for each listener */
    most.rlim_cur = most.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &most);
    *t = (story){.s = s, .client = client_at(s->bind)};
    t->value = malloc(AIF_VALUE_MAX);
    assert_non_null(t->value);
    memset(t->value, 'v', AIF_VALUE_MAX);
}

static void
story_end(story *t)
{
    aif_client_free(t->client);
    free(t->value);
}

static void
tell(story *t, uint8_t key, size_t bytes)
{
    aif_event ev = numbered("p", t->head + 1);
    uint64_t offset;
    aif_error e;

    ev.key = (aif_str){keys[key], strlen(keys[key])};
    ev.value = (aif_str){t->value, bytes};
    if (aif_client_publish(t->client, &ev, 1, &offset, SOON, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    assert_int_equal(offset, ++t->head);
    t->key[offset] = key;
}

/* A new stream of key, from after on. */
static void
hark(const story *t, listener *l, ear *a, uint8_t key, uint64_t after)
{
    const aif_pattern p = {AIF_STR("default"),
                           {keys[key], strlen(keys[key])},
                           AIF_STR("*"),
                           AIF_STR("*"),
                           AIF_STR("*")};
    aif_error e;

    if (l->sub == NULL) {
        assert_int_equal(aif_sub_open(t->s->bind, NULL, false, &l->sub, &e),
                         AIF_OK);
    }
    *a = (ear){.key = key, .cursor = after};
    if (aif_sub_add(l->sub, &p, 1, (aif_place){.offset = after}, SOON,
                    &a->number, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
}

static void
cease(listener *l, ear *a)
{
    aif_error e;

    assert_int_equal(aif_sub_remove(l->sub, a->number, &e), AIF_OK);
    *a = (ear){.number = 0};
}

/* The next event that a has to hear; 0: it has heard everything. */
static uint64_t
next_of(const story *t, const ear *a)
{
    uint64_t offset = a->cursor + 1;

    while (offset <= t->head && t->key[offset] != a->key) {
        offset++;
    }
    return offset <= t->head ? offset : 0;
}

static ear *
ear_of(listener *l, uint64_t number)
{
    for (int i = 0; i < STREAMS_MOST; i++) {
        if (l->ears[i].number == number) {
            return &l->ears[i];
        }
    }
    fail_msg("events of a stream that there is not");
    return NULL;
}

/* What is there for one of its streams, up to 1 MiB; false: nothing. */
static bool
take(const story *t, listener *l)
{
    aif_batch out = {0};
    uint64_t stream;
    bool hinted;
    bool some;
    aif_error e;

    if (aif_sub_next(l->sub, 0, &out, &stream, NULL, &hinted, &e) != AIF_OK) {
        fail_msg("%s", e.text);
    }
    some = out.n > 0;
    for (size_t i = 0; i < out.n; i++) {
        ear *a = ear_of(l, stream);

        assert_int_equal(out.events[i].offset, next_of(t, a));
        a->cursor = out.events[i].offset;
    }
    aif_batch_fini(&out);
    return some;
}

static bool
heard_all(const story *t, const listener *l)
{
    for (int i = 0; i < STREAMS_MOST; i++) {
        if (l->ears[i].number != 0 && next_of(t, &l->ears[i]) != 0) {
            return false;
        }
    }
    return true;
}

/* It never reads.  Some say that they take a byte now and then, and so may
 * have as much as their window under way. */
typedef struct {
    raw r;
    bool claims;
    uint64_t claimed;
} staller;

static void
stall(const story *t, staller *one)
{
    const aif_frame f = {
        .kind = AIF_K_SUBSCRIBE, .id = 5, .max = AIF_WINDOW_MAX};
    aif_buf tail = {0};
    aif_error e;

    *one = (staller){.claims = chance(3) != 0};
    raw_open(&one->r, t->s->bind);
    assert_int_equal(aif_wire_put_pattern(&everything, &tail, &e), AIF_OK);
    raw_frame(&one->r, &f, &tail);
    aif_buf_fini(&tail);
}

static void
say_a_byte(staller *one)
{
    const aif_frame f = {.kind = AIF_K_CREDIT,
                         .id = 5,
                         .from = one->claims ? ++one->claimed : 0,
                         .max = AIF_WINDOW_MAX};

    raw_frame(&one->r, &f, NULL);
}

/* Once a second, so that those that stall keep their leases, and what is under
 * way to them. */
static void
renew_leases(story *t, staller *stallers, size_t n)
{
    if (aif_now_ms() < t->renew) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        say_a_byte(&stallers[i]);
    }
    t->renew = aif_now_ms() + 1000;
}

/* All read what comes, as long as something comes within a minute. */
static void
expect_all_heard(story *t, listener *all, size_t n, staller *stallers,
                 size_t n_stallers)
{
    struct pollfd *fds = calloc(n, sizeof *fds);
    int64_t end = aif_now_ms() + SOON;
    size_t done = 0;

    assert_non_null(fds);
    for (size_t i = 0; i < n; i++) {
        fds[i] =
            (struct pollfd){.fd = aif_sub_fd(all[i].sub), .events = POLLIN};
    }
    while (done < n) {
        done = 0;
        renew_leases(t, stallers, n_stallers);
        for (size_t i = 0; i < n; i++) {
            while (take(t, &all[i])) {
                end = aif_now_ms() + SOON;
            }
            done += heard_all(t, &all[i]);
        }
        if (done < n && aif_now_ms() > end) {
            fail_msg("%zu of %zu have heard all up to event %llu", done, n,
                     (unsigned long long)t->head);
        }
        if (done < n) {
            (void)poll(fds, n, 1000);
        }
    }
    free(fds);
}

/* n clients with so many streams each, of which one hears the events. */
static void
crowd_hears(served *s, size_t n, int streams, size_t bytes, uint64_t events)
{
    listener *all = calloc(n, sizeof *all);
    story t;

    assert_non_null(all);
    story_begin(&t, s);
    for (size_t i = 0; i < n; i++) {
        for (int k = 0; k < streams; k++) {
            hark(&t, &all[i], &all[i].ears[k], k == 0 ? KEY_K : KEY_NEVER, 0);
        }
    }
    while (t.head < events) {
        tell(&t, KEY_K, bytes);
        expect_all_heard(&t, all, n, NULL, 0);
    }
    for (size_t i = 0; i < n; i++) {
        aif_sub_free(all[i].sub);
    }
    free(all);
    story_end(&t);
}

static void
clients_with_two_streams_hear_everything(void **state)
{
    crowd_hears(*state, 70 / SLOWER, 2, 256 << 10, 12 * SLOWER);
}

static void
clients_with_17_streams_hear_everything(void **state)
{
    crowd_hears(*state, 80 / SLOWER, 17, 512 << 10, 6 * SLOWER);
}

static void
expect_flight(const served *s, uint64_t bytes)
{
    int64_t end = aif_now_ms() + SOON;

    while (stats_of(s).flight != bytes) {
        assert_true(aif_now_ms() < end);
        assert_it_lives(s);
    }
}

/* Its bytes are still on the way, and nobody will say that they were taken. */
static void
a_stream_that_is_closed_leaves_nothing_under_way(void **state)
{
    listener l = {.sub = NULL};
    story t;

    story_begin(&t, *state);
    hark(&t, &l, &l.ears[0], KEY_K, 0);
    hark(&t, &l, &l.ears[1], KEY_K, 0);
    for (int i = 0; i < 20; i++) {
        tell(&t, KEY_K, 256 << 10);
    }
    assert_it_lives(t.s); /* and the last push is over */
    assert_true(stats_of(t.s).flight > 6u << 20);
    cease(&l, &l.ears[0]);
    cease(&l, &l.ears[1]);
    expect_flight(t.s, 0);
    hark(&t, &l, &l.ears[0], KEY_K, 0);
    expect_all_heard(&t, &l, 1, NULL, 0);
    aif_sub_free(l.sub);
    story_end(&t);
}

/* -- chance -------------------------------------------------------------- */

enum { LISTENERS = 12, STALLERS = 30, ROUNDS = 300 / SLOWER };

static void
disturb(story *t, listener *l)
{
    ear *a = &l->ears[chance(4)];

    if (chance(40) == 0) { /* it vanishes with all its streams */
        aif_sub_free(l->sub);
        *l = (listener){.sub = NULL};
        hark(t, l, &l->ears[0], KEY_K, t->head);
    } else if (a->number == 0 && chance(4) == 0) {
        hark(t, l, a, (uint8_t)chance(3),
             t->head - chance(t->head < 8 ? t->head : 8));
    } else if (a->number != 0 && chance(12) == 0) {
        cease(l, a);
    }
}

static void
play_round(story *t, listener *l, staller *stallers)
{
    tell(t, (uint8_t)chance(2),
         chance(3) == 0 ? 4096 : 1 + chance(512u << 10));
    for (int i = 0; i < LISTENERS; i++) {
        int calls = i < LISTENERS / 3 ? (int)(chance(8) == 0) : 100;

        disturb(t, &l[i]);
        while (calls-- > 0 && take(t, &l[i])) {
        }
    }
    if (chance(10) == 0) {
        int i = (int)chance(STALLERS);

        raw_close(&stallers[i].r);
        stall(t, &stallers[i]);
    }
    say_a_byte(&stallers[chance(STALLERS)]);
    say_a_byte(&stallers[chance(STALLERS)]);
    renew_leases(t, stallers, STALLERS);
    assert_true(stats_of(t->s).flight <=
                FLIGHT_MOST(stats_of(t->s).subscribers));
}

static void
whoever_reads_hears_everything(void **state)
{
    static listener l[LISTENERS];
    static staller stallers[STALLERS];
    const aif_frame leave = {.kind = AIF_K_UNSUBSCRIBE, .id = 5};
    uint64_t most = 0;
    story t;

    begin_chance();
    story_begin(&t, *state);
    for (int i = 0; i < LISTENERS; i++) {
        hark(&t, &l[i], &l[i].ears[0], KEY_K, 0);
    }
    for (int i = 0; i < STALLERS; i++) {
        stall(&t, &stallers[i]);
    }
    /* On a slow machine it takes more rounds until that much is under way. */
    for (int i = 0;
         i < ROUNDS || (most <= AIF_FLIGHT_BYTES && i < 20 * ROUNDS); i++) {
        uint64_t flight;

        play_round(&t, l, stallers);
        flight = stats_of(t.s).flight;
        most = flight > most ? flight : most;
    }
    print_message("%llu MiB were under way\n", (unsigned long long)most >> 20);
    assert_true(most > AIF_FLIGHT_BYTES);
    expect_all_heard(&t, l, LISTENERS, stallers, STALLERS);
    for (int i = 0; i < LISTENERS; i++) {
        aif_sub_free(l[i].sub);
    }
    for (int i = 0; i < STALLERS; i++) {
        raw_frame(&stallers[i].r, &leave, NULL);
    }
    while (stats_of(t.s).subscribers > 0) {
        tell(&t, KEY_K, 1); /* finds who is gone; leases end in 10 s */
        (void)poll(NULL, 0, 50);
    }
    expect_flight(t.s, 0);
    for (int i = 0; i < STALLERS; i++) {
        raw_close(&stallers[i].r);
    }
    story_end(&t);
}

int
main(void)
{
#define SERVED(test)                                                          \
    cmocka_unit_test_setup_teardown(test, served_mem, served_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_million_steps_keep_the_bound_and_shut_nobody_out),
        cmocka_unit_test(who_never_reads_costs_a_share_and_one_frame),
        SERVED(clients_with_two_streams_hear_everything),
        SERVED(clients_with_17_streams_hear_everything),
        SERVED(a_stream_that_is_closed_leaves_nothing_under_way),
        SERVED(whoever_reads_hears_everything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
