/* This program's definitions come before those of the shared libraries
 * (fdatasync, PQ...), and find the real ones with RTLD_NEXT.  What SQLite
 * calls through its own table is exchanged there. */
#define _GNU_SOURCE
#include "fault_store.h"

#include <dlfcn.h>
#include <errno.h>
#include <libpq-fe.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static int sqlite_left = -1;
static int sqlite_errno;
static int memory_left = -1;
static sqlite3_mem_methods memory; /* the real ones */
static int pg_left = -1;
static bool pg_lost;
static int mysql_left = -1;
static bool mysql_lost;
static bool fired;
static int syncs;

static bool
comes_now(int *left)
{
    if (*left < 0 || (*left)-- > 0) {
        return false;
    }
    fired = true;
    return true;
}

static bool
kernel_says_no(void)
{
    if (!comes_now(&sqlite_left)) {
        return false;
    }
    errno = sqlite_errno;
    return true;
}

static ssize_t
faulty_pwrite(int fd, const void *p, size_t n, off_t at)
{
    return kernel_says_no() ? -1 : pwrite(fd, p, n, at);
}

static ssize_t
faulty_pread(int fd, void *p, size_t n, off_t at)
{
    if (kernel_says_no()) {
        errno = ESTALE; /* SQLite takes EIO for a page that is corrupt */
        return -1;
    }
    return pread(fd, p, n, at);
}

static int
faulty_ftruncate(int fd, off_t n)
{
    return kernel_says_no() ? -1 : ftruncate(fd, n);
}

EXPORT int
fdatasync(int fd)
{
    static int (*real)(int);

    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "fdatasync");
    }
    syncs++;
    return kernel_says_no() ? -1 : real(fd);
}

static void
exchange(const char *name, sqlite3_syscall_ptr call)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);

    (void)vfs->xSetSystemCall(vfs, name, call);
}

void
fault_sqlite_after(int n, int error)
{
    exchange("pwrite", (sqlite3_syscall_ptr)faulty_pwrite);
    exchange("pwrite64", (sqlite3_syscall_ptr)faulty_pwrite);
    exchange("pread", (sqlite3_syscall_ptr)faulty_pread);
    exchange("pread64", (sqlite3_syscall_ptr)faulty_pread);
    exchange("ftruncate", (sqlite3_syscall_ptr)faulty_ftruncate);
    sqlite_errno = error;
    sqlite_left = n;
    fired = false;
}

static void *
faulty_malloc(int n)
{
    return comes_now(&memory_left) ? NULL : memory.xMalloc(n);
}

static void *
faulty_realloc(void *p, int n)
{
    return comes_now(&memory_left) ? NULL : memory.xRealloc(p, n);
}

void
fault_sqlite_memory_init(void)
{
    sqlite3_mem_methods faulty;

    (void)sqlite3_config(SQLITE_CONFIG_GETMALLOC, &memory);
    faulty = memory;
    faulty.xMalloc = faulty_malloc;
    faulty.xRealloc = faulty_realloc;
    (void)sqlite3_config(SQLITE_CONFIG_MALLOC, &faulty);
}

void
fault_sqlite_memory_after(int n)
{
    memory_left = n;
    fired = false;
}

void
fault_pg_after(int n, bool answer_is_lost)
{
    pg_left = n;
    pg_lost = answer_is_lost;
    fired = false;
}

void
fault_mysql_after(int n, bool answer_is_lost)
{
    mysql_left = n;
    mysql_lost = answer_is_lost;
    fired = false;
}

bool
fault_mysql_comes(bool *answer_is_lost)
{
    *answer_is_lost = mysql_lost;
    return comes_now(&mysql_left);
}

void
fault_store_off(void)
{
    mysql_left = -1;
    sqlite_left = -1;
    memory_left = -1;
    pg_left = -1;
}

bool
fault_store_fired(void)
{
    return fired;
}

int
fault_store_syncs(void)
{
    return syncs;
}

/* X(name, parameters, arguments): the calls that ask a server something. */
#define ASKING(X)                                                             \
    X(PQexec, (PGconn * c, const char *sql), (c, sql))                        \
    X(PQprepare,                                                              \
      (PGconn * c, const char *name, const char *sql, int n, const Oid *t),   \
      (c, name, sql, n, t))                                                   \
    X(PQexecParams,                                                           \
      (PGconn * c, const char *sql, int n, const Oid *t,                      \
       const char *const *v, const int *l, const int *f, int r),              \
      (c, sql, n, t, v, l, f, r))                                             \
    X(PQexecPrepared,                                                         \
      (PGconn * c, const char *name, int n, const char *const *v,             \
       const int *l, const int *f, int r),                                    \
      (c, name, n, v, l, f, r))

/* Lost: the server has done it, then the line breaks, then we notice. */
#define X(name, parameters, arguments)                                        \
    EXPORT PGresult *name parameters                                          \
    {                                                                         \
        static PGresult *(*real)parameters;                                   \
                                                                              \
        if (real == NULL) {                                                   \
            *(void **)&real = dlsym(RTLD_NEXT, #name);                        \
        }                                                                     \
        if (comes_now(&pg_left)) {                                            \
            if (pg_lost) {                                                    \
                PQclear(real arguments);                                      \
            }                                                                 \
            (void)shutdown(PQsocket(c), SHUT_RDWR);                           \
        }                                                                     \
        return real arguments;                                                \
    }
ASKING(X)
#undef X

static void (*connected)(void);

void
fault_connected(void (*then)(void))
{
    connected = then;
}

void
fault_connected_now(void)
{
    void (*then)(void) = connected;

    connected = NULL;
    if (then != NULL) {
        then();
    }
}

EXPORT PGconn *
PQconnectdbParams(const char *const *names, const char *const *values, int x)
{
    static PGconn *(*real)(const char *const *, const char *const *, int);
    static const char *const nobody[] = {"host", NULL};
    static const char *const nowhere[] = {"/nowhere", NULL};
    PGconn *conn;

    if (real == NULL) {
        *(void **)&real = dlsym(RTLD_NEXT, "PQconnectdbParams");
    }
    conn = comes_now(&pg_left) ? real(nobody, nowhere, 0)
                               : real(names, values, x);
    fault_connected_now();
    return conn;
}
