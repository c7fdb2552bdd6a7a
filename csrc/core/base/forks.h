/* forks.h - what a forked child must not keep, and what it must not open.
 *
 * A child has copies of all descriptors: what it inherits of a lock or of a
 * database's connection would hold that when we are killed, for as long as it
 * lives.  So fork(2) closes them there.  libzmq accepts connections in a
 * thread of its own and says so later; those are found in the child, by the
 * address that they were accepted at.
 *
 * A child also has a copy of what SQLite keeps in memory about the files that
 * are open here: which locks this process has.  Those locks are not the
 * child's, but SQLite would act in it as if they were, on any new connection
 * to the same file.  So such a file is refused there.  Any thread.
 */
#ifndef AIF_FORKS_H
#define AIF_FORKS_H

#include "base/err.h"

#include <stdbool.h>
#include <sys/stat.h>

/* One of them.  A zeroed one is none. */
typedef struct aif_owned {
    struct aif_owned *next;
    int fd;           /* -1: a file of SQLite's */
    struct stat what; /* fd may have been closed, and be another's */
} aif_owned;

/* An address that this process serves.  A zeroed one is none. */
typedef struct aif_served {
    struct aif_served *next;
    const struct sockaddr_storage *at; /* of getsockname(2); the rest 0 */
} aif_served;

/* No fork between the two; the others are called there. */
void aif_forks_stop(void);
void aif_forks_go(void);
void aif_forks_add(aif_owned *o, int fd);
/* Before fd is closed.  One that was not added is no error. */
void aif_forks_remove(aif_owned *o);
/* Not between stop and go: how often this process was forked.  A library's
 * socket is added after it was opened, so who was forked in between has it:
 * then it is closed, and another one opened, before it is used. */
unsigned aif_forks_count(void);
/* Is another one to be opened?  *forks: the count before; *tries: 0 at first.
 * It gives up after five. */
bool aif_forks_again(unsigned *forks, int *tries);
/* aif_forks_add and _remove, for who does nothing else between stop and go. */
void aif_forks_own(aif_owned *o, int fd);
void aif_forks_disown(aif_owned *o);
/* s->at is set: a child keeps no stream socket that has this address,
 * neither the listener nor what it accepted. */
void aif_forks_serve(aif_served *s);
/* After they are closed.  One that was not served is no error. */
void aif_forks_unserve(aif_served *s);

/* Before SQLite opens path.  EFORKED: a process that this one was forked from
 * had it open then, and says what to do instead.  A path where no file is, is
 * left to SQLite.  After SQLite has closed it: aif_forks_disown. */
AIF_MUST_CHECK aif_err aif_forks_claim(aif_owned *o, const char *path,
                                       aif_error *e);

#endif
