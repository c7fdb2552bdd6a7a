/* cursors.h - named cursors of readers, which the log keeps.
 *
 * In:  TAKE, MOVE, FORGET and CURSORS frames.  Out: one answer each.
 * The broker keeps nothing: each frame asks or changes the store, so any broker
 * of the log will do.  The broker's thread only.
 */
#ifndef AIF_CURSORS_H
#define AIF_CURSORS_H

#include "broker/ask.h"

AIF_MUST_CHECK aif_err aif_cursors_answer(aif_questions *a,
                                          const aif_route *to,
                                          const aif_frame *f, aif_error *e);

#endif
