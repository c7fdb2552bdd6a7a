/* store_mysql_none.c - in place of the folder mysql/, where
 * aiflow_ext was built without libmariadb. */
#include "log/store.h"

static aif_err
none_open(const char *uri, void **store, aif_error *e)
{
    (void)uri; /* may have a password in it */
    *store = NULL;
    return aif_fail(e, AIF_EINVAL,
                    "aiflow_ext was built without MySQL: apt-get install "
                    "libmariadb-dev, then build it again: pip install "
                    "--force-reinstall --no-binary aiflow-ext aiflow-ext");
}

const aif_store_ops aif_store_mysql = {.scheme = "mysql", .open = none_open};
