#include "core/base/arena.h"

#include <stdlib.h>

enum { BLOCK_BYTES = 1024, ALIGNMENT = 16 };

struct arena_block {
    struct arena_block *next;
    size_t used;
    size_t size;
    _Alignas(ALIGNMENT) char bytes[];
};

void arena_init(struct arena *a)
{
    a->blocks = NULL;
}

void arena_clear(struct arena *a)
{
    while (a->blocks != NULL) {
        struct arena_block *b = a->blocks;
        a->blocks = b->next;
        free(b);
    }
}

void arena_fini(struct arena *a)
{
    arena_clear(a);
}

void *arena_alloc(struct arena *a, size_t size)
{
    size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    struct arena_block *b = a->blocks;
    if (b == NULL || b->size - b->used < size) {
        size_t bytes = size > BLOCK_BYTES ? size : BLOCK_BYTES;
        b = malloc(sizeof *b + bytes);
        if (b == NULL)
            return NULL;
        *b = (struct arena_block){.next = a->blocks, .size = bytes};
        a->blocks = b;
    }
    void *at = b->bytes + b->used;
    b->used += size;
    return at;
}

bool arena_copy(struct arena *a, struct slice from, struct slice *out)
{
    *out = SLICE_LIT("");
    if (from.len == 0)
        return true;
    char *to = arena_alloc(a, from.len);
    if (to == NULL)
        return false;
    memcpy(to, from.ptr, from.len);
    *out = slice_of(to, from.len);
    return true;
}
