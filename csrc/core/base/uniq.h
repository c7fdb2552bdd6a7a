/* uniq.h - numbers in order, each once.
 *
 * In:  n numbers.  Out: the same ones sorted, without repeats.  Pure.
 */
#ifndef AIF_UNIQ_H
#define AIF_UNIQ_H

#include <stddef.h>
#include <stdint.h>

/* In place; returns how many are left.  p may be NULL when n is 0. */
size_t aif_uniq(uint64_t *p, size_t n);

#endif
