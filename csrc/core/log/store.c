#include "log/store.h"

#include <string.h>

static const aif_store_ops *const stores[] = {
    &aif_store_mem, &aif_store_sqlite, &aif_store_pg, &aif_store_mysql};

const aif_store_ops *
aif_store_find(const char *uri)
{
    for (size_t i = 0; i < sizeof stores / sizeof *stores; i++) {
        if (strncmp(uri, stores[i]->scheme, strlen(stores[i]->scheme)) == 0) {
            return stores[i];
        }
    }
    return strncmp(uri, "mariadb", strlen("mariadb")) == 0 ? &aif_store_mysql
                                                           : NULL;
}
