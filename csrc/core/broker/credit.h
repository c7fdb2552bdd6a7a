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

/* Below FLIGHT bytes under way to all together, each subscriber may have its
 * own window under way.  Beyond FLIGHT, who has not taken anything lately may
 * have no more than SHARE; beyond twice FLIGHT nothing at all, and the others
 * no more than SHARE_TAKER.  One frame may go over.  So who stalls costs SHARE
 * and one event, and delays nobody who reads.  Who reads is never shut out:
 * the broker answers each CREDIT with an EVENTS frame, whatever the flight is,
 * and the client's next CREDIT says that it took that frame. */
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

void aif_credit_sent(aif_credit *c, _Atomic uint64_t *flight, uint64_t n);
/* It says how much it took in all.  False: more than it was sent. */
bool aif_credit_take(aif_credit *c, _Atomic uint64_t *flight, uint64_t taken,
                     int64_t now);
/* It is gone: what was under way to it is not waited for. */
void aif_credit_end(aif_credit *c, _Atomic uint64_t *flight);
/* How many bytes may be under way to it, whatever its window is. */
uint64_t aif_credit_share(const aif_credit *c, uint64_t flight, int64_t now);
/* May it be sent a frame? */
bool aif_credit_may(const aif_credit *c, uint64_t flight, int64_t now);
/* How many bytes of its window are left. */
uint64_t aif_credit_left(const aif_credit *c);

#endif
