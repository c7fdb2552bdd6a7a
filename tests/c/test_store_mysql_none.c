/* As if it had been built without libmariadb. */
#include "cmocka_all.h"

#include "log/log.h"
#include "log/store_mysql_none.c" /* comes before the one in the library */

static void
it_is_said_what_to_install(void **state)
{
    static const char *const uris[] = {"mysql://u:sekret@h/db",
                                       "mariadb://u:sekret@h/db"};
    aif_log *log;
    aif_error e;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(aif_log_open(uris[i], &log, &e), AIF_EINVAL);
        assert_null(log);
        assert_string_equal(
            e.text, "aiflow_ext was built without MySQL: apt-get install "
                    "libmariadb-dev, then build it again: pip install "
                    "--force-reinstall --no-binary aiflow-ext aiflow-ext");
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_said_what_to_install),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
