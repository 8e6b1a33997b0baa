/* Threads with names, for those who look at the relay from outside: `top -H`, perf, a debugger. */
#ifndef ONWARD_CORE_BASE_THREAD_H
#define ONWARD_CORE_BASE_THREAD_H

#include <pthread.h>

/* Starts a thread that runs run(context), joinable. The name is cut to the kernel's 15 bytes;
 * a thread whose name cannot be set runs all the same. Any thread. 0, or what
 * pthread_create(3) said. */
int thread_start(pthread_t *thread, const char *name, void *(*run)(void *context), void *context);

#endif
