/* mysql_load.h - libmariadb, loaded when the first mysql: URI is connected to.
 *
 * Its header is needed wherever aiflow_ext is built, the library only where
 * something is in MySQL: so the extension is built in one way, and imports
 * everywhere.  In: nothing.  Out: pointers to the functions of libmariadb.
 * The macros below let the files that include it call them by their own names.
 * Whoever needs one more function adds it to both lists; one that is missing
 * from a list is an undefined reference when the C tests are linked.
 */
#ifndef AIF_MYSQL_LOAD_H
#define AIF_MYSQL_LOAD_H

#include "base/err.h"

#include <mysql.h>

#define AIF_MYSQL_FUNCTIONS(X)                                                \
    X(mysql_affected_rows)                                                    \
    X(mysql_close)                                                            \
    X(mysql_errno)                                                            \
    X(mysql_error)                                                            \
    X(mysql_fetch_lengths)                                                    \
    X(mysql_fetch_row)                                                        \
    X(mysql_field_count)                                                      \
    X(mysql_free_result)                                                      \
    X(mysql_get_socket)                                                       \
    X(mysql_init)                                                             \
    X(mysql_num_fields)                                                       \
    X(mysql_optionsv)                                                         \
    X(mysql_real_connect)                                                     \
    X(mysql_real_query)                                                       \
    X(mysql_sqlstate)                                                         \
    X(mysql_stmt_affected_rows)                                               \
    X(mysql_stmt_bind_param)                                                  \
    X(mysql_stmt_close)                                                       \
    X(mysql_stmt_errno)                                                       \
    X(mysql_stmt_error)                                                       \
    X(mysql_stmt_execute)                                                     \
    X(mysql_stmt_init)                                                        \
    X(mysql_stmt_prepare)                                                     \
    X(mysql_stmt_sqlstate)                                                    \
    X(mysql_store_result)                                                     \
    X(mysql_use_result)

#define AIF_MYSQL_DECLARE(name) extern __typeof__(&name) aif_lib_##name;
AIF_MYSQL_FUNCTIONS(AIF_MYSQL_DECLARE)
#undef AIF_MYSQL_DECLARE

#define mysql_affected_rows aif_lib_mysql_affected_rows
#define mysql_close aif_lib_mysql_close
#define mysql_errno aif_lib_mysql_errno
#define mysql_error aif_lib_mysql_error
#define mysql_fetch_lengths aif_lib_mysql_fetch_lengths
#define mysql_fetch_row aif_lib_mysql_fetch_row
#define mysql_field_count aif_lib_mysql_field_count
#define mysql_free_result aif_lib_mysql_free_result
#define mysql_get_socket aif_lib_mysql_get_socket
#define mysql_init aif_lib_mysql_init
#define mysql_num_fields aif_lib_mysql_num_fields
#define mysql_optionsv aif_lib_mysql_optionsv
#define mysql_real_connect aif_lib_mysql_real_connect
#define mysql_real_query aif_lib_mysql_real_query
#define mysql_sqlstate aif_lib_mysql_sqlstate
#define mysql_stmt_affected_rows aif_lib_mysql_stmt_affected_rows
#define mysql_stmt_bind_param aif_lib_mysql_stmt_bind_param
#define mysql_stmt_close aif_lib_mysql_stmt_close
#define mysql_stmt_errno aif_lib_mysql_stmt_errno
#define mysql_stmt_error aif_lib_mysql_stmt_error
#define mysql_stmt_execute aif_lib_mysql_stmt_execute
#define mysql_stmt_init aif_lib_mysql_stmt_init
#define mysql_stmt_prepare aif_lib_mysql_stmt_prepare
#define mysql_stmt_sqlstate aif_lib_mysql_stmt_sqlstate
#define mysql_store_result aif_lib_mysql_store_result
#define mysql_use_result aif_lib_mysql_use_result

/* Before any of them is called.  Any thread may; the first call of the process
 * loads the library, which then stays.  AIF_EINVAL, now and in every later
 * call of the process: it is not there, or lacks a function. */
AIF_MUST_CHECK aif_err aif_mysql_load(aif_error *e);

#endif
