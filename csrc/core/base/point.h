/* point.h - named places where a test can make the process die as if by
 * `kill -9`: AIF_CRASH_AT=name, and AIF_CRASH_AFTER=n for the n-th pass.
 *
 * The environment is read once, at the first point that is passed.
 */
#ifndef AIF_POINT_H
#define AIF_POINT_H

#define AIF_POINT(name) aif_point(name)

void aif_point(const char *name);
/* Read the environment again (a test that sets it after a fork). */
void aif_point_reload(void);

#endif
