/* lockfile.h - one server for a path: PATH.lock, held until its process ends.
 *
 * A child that this process forks does not keep the lock when the process is
 * killed: workers outlive a killed scheduler, and the next one must get it.
 */
#ifndef AIF_LOCKFILE_H
#define AIF_LOCKFILE_H

#include "base/err.h"

typedef struct aif_lockfile aif_lockfile;

/* ECONFLICT names the process that holds it; EINVAL: it cannot be made;
 * others of aif_err_of_path. */
AIF_MUST_CHECK aif_err aif_lockfile_take(const char *path, aif_lockfile **out,
                                         aif_error *e);
/* Where the file was deleted, or is another one now, take the lock anew:
 * ECONFLICT when another process was faster. */
AIF_MUST_CHECK aif_err aif_lockfile_keep(const char *path, aif_lockfile **l,
                                         aif_error *e);
/* The file stays: removing it would let two processes lock two files. */
void aif_lockfile_free(aif_lockfile *l);

#endif
