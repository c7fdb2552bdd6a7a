/* Many threads on one handle: every offset is given once, and who reads sees
 * no gap.  Run under TSan. */
#include "cmocka_all.h"

#include "log/log.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { WRITERS = 4 };

typedef struct {
    aif_log *log;
    uint64_t each;
    char name; /* of the producer */
    uint64_t last;
    aif_error e;
} worker;

static void *
append_many(void *arg)
{
    worker *w = arg;
    uint64_t offsets[2];

    for (uint64_t i = 0; i < w->each; i++) {
        aif_event ev = {.ns = AIF_STR("default"),
                        .key = AIF_STR("k"),
                        .type = AIF_STR("t"),
                        .producer = {&w->name, 1},
                        .sequence = i};
        aif_event two[] = {ev, ev}; /* the same: one event */

        if (aif_log_append(w->log, two, 2, offsets, NULL, &w->e) != AIF_OK ||
            offsets[0] <= w->last || offsets[1] != offsets[0]) {
            return w;
        }
        w->last = offsets[0];
    }
    return NULL;
}

static void *
follow(void *arg)
{
    worker *w = arg;

    while (w->last < WRITERS * w->each) {
        aif_batch out = {0};

        if (aif_log_read(w->log, AIF_BEYOND(w->last), 100, &out, &w->e) !=
            AIF_OK) {
            return w;
        }
        w->last += out.n;
        aif_batch_fini(&out);
    }
    return NULL;
}

static void
share(const char *uri, uint64_t each)
{
    worker workers[WRITERS + 1] = {0};
    pthread_t threads[WRITERS + 1];
    aif_error e;
    aif_log *log;
    aif_head head;
    void *failed;

    assert_int_equal(aif_log_open(uri, &log, &e), AIF_OK);
    for (int i = 0; i <= WRITERS; i++) {
        workers[i] =
            (worker){.log = log, .each = each, .name = (char)('a' + i)};
        pthread_create(&threads[i], NULL, i < WRITERS ? append_many : follow,
                       &workers[i]);
    }
    for (int i = 0; i <= WRITERS; i++) {
        pthread_join(threads[i], &failed);
        if (failed != NULL) {
            fail_msg("%c: %s", workers[i].name, workers[i].e.text);
        }
    }
    assert_int_equal(aif_log_head(log, &head, &e), AIF_OK);
    assert_int_equal(head.offset, WRITERS * each);
    aif_log_free(log);
}

static void
threads_share_a_log_in_memory(void **state)
{
    (void)state;
    share("mem:", 2000);
}

static void
threads_share_a_log_in_a_file(void **state)
{
    char dir[] = "/tmp/aiflow-XXXXXX";
    char uri[64];

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(uri, sizeof uri, "sqlite:%s/log", dir);
    share(uri, 50);
    (void)unlink(uri + 7);
    (void)snprintf(uri, sizeof uri, "%s/log-wal", dir);
    (void)unlink(uri);
    (void)snprintf(uri, sizeof uri, "%s/log-shm", dir);
    (void)unlink(uri);
    (void)rmdir(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_share_a_log_in_memory),
        cmocka_unit_test(threads_share_a_log_in_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
