/* What is loaded is global, because a library is: it is written once, under
 * pthread_once, and never changed. */
#include "db/mysql_load.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* The 3 is the version of its binary interface, of which <mysql.h> is too. */
#define LIBRARY "libmariadb.so.3"

#define DEFINE(name) __typeof__(aif_lib_##name) aif_lib_##name;
AIF_MYSQL_FUNCTIONS(DEFINE)

static const struct {
    const char *name;
    void *pointer;
} functions[] = {
#define ROW(name) {#name, &aif_lib_##name},
    AIF_MYSQL_FUNCTIONS(ROW)};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char why_not[256]; /* empty: it is loaded */

static void
load_library(void)
{
    /* Local: libmysqlclient has functions of the same names, and may be in
     * this process for somebody else. */
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    void *function = library;

    for (size_t i = 0;
         function != NULL && i < sizeof functions / sizeof *functions; i++) {
        function = dlsym(library, functions[i].name);
        memcpy(functions[i].pointer, &function, sizeof function);
    }
    if (function == NULL) {
        const char *said = dlerror();

        (void)snprintf(why_not, sizeof why_not, "%s",
                       said == NULL ? LIBRARY : said);
    }
}

aif_err
aif_mysql_load(aif_error *e)
{
    (void)pthread_once(&once, load_library);
    return why_not[0] == '\0'
               ? AIF_OK
               : aif_fail(e, AIF_EINVAL,
                          "MySQL needs the library libmariadb; on "
                          "Debian: apt-get install libmariadb3, then start "
                          "this process again (%s)",
                          why_not);
}
