/* credit.h - how many bytes of EVENTS are under way, and how many may be.
 *
 * In:  what was sent to a subscriber, what it says that it took, the time.
 * Out: may it be sent more, and how much at once?
 * *flight is the sum over all subscribers of what is under way to them; these
 * functions keep it.  Pure: no I/O, no clock.
 */
#ifndef AIF_CREDIT_H
#define AIF_CREDIT_H

#include <stdbool.h>
#include <stdint.h>

/* While less than FLIGHT bytes are under way to all subscribers together, each
 * may have its whole window under way.  From FLIGHT on, a subscriber that took
 * nothing for TAKER_MS may have no more than SHARE.  From twice FLIGHT on it
 * may have nothing more, and the others no more than SHARE_TAKER.  One frame
 * may go over these bounds.  So a subscriber that stalls costs SHARE and one
 * event, and delays nobody who reads.  And one that reads is never shut out:
 * the broker answers each CREDIT with an EVENTS frame, however many bytes are
 * under way, and the client's next CREDIT says that it took that frame. */
#define AIF_FLIGHT_BYTES (128u << 20)
#define AIF_SHARE_BYTES (16u << 10)
#define AIF_SHARE_TAKER_BYTES (256u << 10)
#define AIF_TAKER_MS 3000 /* a client says each second what it took */

typedef struct {
    uint64_t sent;   /* bytes of EVENTS since its SUBSCRIBE */
    uint64_t taken;  /* bytes of them that it said it took */
    uint32_t window; /* bytes that may be under way to it, as it said last */
    int64_t took;    /* when it last took something; 0: never */
} aif_credit;

/* Its client lets this many bytes be under way. */
void aif_credit_allow(aif_credit *c, uint32_t window);
void aif_credit_sent(aif_credit *c, _Atomic uint64_t *flight, uint64_t n);
/* The client says how many bytes it took since SUBSCRIBE.  False: that is more
 * than it was sent. */
bool aif_credit_take(aif_credit *c, _Atomic uint64_t *flight, uint64_t taken,
                     int64_t now);
/* The subscriber is gone, and so is what was under way to it. */
void aif_credit_end(aif_credit *c, _Atomic uint64_t *flight);
/* How many bytes may be under way to it, whatever its window is. */
uint64_t aif_credit_share(const aif_credit *c, uint64_t flight, int64_t now);
/* May it be sent a frame? */
bool aif_credit_may(const aif_credit *c, uint64_t flight, int64_t now);
/* How many bytes of its window are left. */
uint64_t aif_credit_left(const aif_credit *c);

#endif
