/* Intrusive doubly linked lists. A list is a `struct link` that points at itself when empty; a
 * member embeds a `struct link`. Membership costs two pointers and no allocation. Not thread-safe:
 * each list names its owner or its lock where it is declared. */
#ifndef ONWARD_CORE_BASE_LIST_H
#define ONWARD_CORE_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

/* A list, or a member of one. */
struct link {
    struct link *next;
    struct link *prev;
};

/* The struct of type `type` whose member `member` lies at `ptr`. */
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void list_init(struct link *l)
{
    l->next = l->prev = l;
}

/* True for an empty list, and for a member that is on no list. */
static inline bool list_empty(const struct link *l)
{
    return l->next == l;
}

/* `item` is on no list; `at` is a member, or the list itself for its end. */
static inline void list_insert_before(struct link *at, struct link *item)
{
    item->prev = at->prev;
    item->next = at;
    at->prev->next = item;
    at->prev = item;
}

static inline void list_push_back(struct link *list, struct link *item)
{
    list_insert_before(list, item);
}

static inline void list_push_front(struct link *list, struct link *item)
{
    list_insert_before(list->next, item);
}

/* Takes the member off whatever list it is on; harmless where it is on none. */
static inline void list_remove(struct link *item)
{
    item->prev->next = item->next;
    item->next->prev = item->prev;
    item->next = item->prev = item;
}

/* The first member, taken off, or NULL where the list is empty. */
static inline struct link *list_pop_front(struct link *list)
{
    if (list_empty(list))
        return NULL;
    struct link *first = list->next;
    list->next = first->next;
    first->next->prev = list;
    list_init(first);
    return first;
}

/* Moves all members of `from` to the end of `to`. */
static inline void list_splice_back(struct link *to, struct link *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}

#endif
