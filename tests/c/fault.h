/* fault.h - make the n-th allocation from now fail, once (n = 0: the next). */
#ifndef FAULT_H
#define FAULT_H

void fault_alloc_after(int n);
void fault_off(void);

#endif
