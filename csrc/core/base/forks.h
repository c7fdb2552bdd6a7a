/* forks.h - descriptors that a forked child must not keep.
 *
 * A child has copies of all: what it inherits of a lock or of a database's
 * connection would hold that when we are killed, for as long as it lives.  So
 * fork(2) closes them there.  Any thread.
 */
#ifndef AIF_FORKS_H
#define AIF_FORKS_H

#include <sys/stat.h>

/* One of them.  A zeroed one is none. */
typedef struct aif_owned {
    struct aif_owned *next;
    int fd;
    struct stat what; /* fd may have been closed, and be another's */
} aif_owned;

/* No fork between the two; the others are called there. */
void aif_forks_stop(void);
void aif_forks_go(void);
void aif_forks_add(aif_owned *o, int fd);
/* Before fd is closed.  One that was not added is no error. */
void aif_forks_remove(aif_owned *o);

#endif
