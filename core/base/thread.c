#include "core/base/thread.h"

#include <stdio.h>

enum { NAME_SIZE = 16 };

int thread_start(pthread_t *thread, const char *name, void *(*run)(void *context), void *context)
{
    char cut[NAME_SIZE];
    int rc = pthread_create(thread, NULL, run, context);
    if (rc != 0)
        return rc;
    (void)snprintf(cut, sizeof cut, "%s", name);
    (void)pthread_setname_np(*thread, cut);
    return 0;
}
