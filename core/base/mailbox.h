/* Mailboxes: how threads talk. A thread that waits in epoll owns one mailbox; any thread may post.
 *
 * A `struct mail` is embedded in what is sent. Posting hands the whole thing over: the sender's
 * pointer is nulled and the receiver owns it from then on. Mail from one sender arrives in order.
 * Delivery calls `on_arrival(mail, owner)` on the receiving thread, where `owner` is the context
 * the mailbox was made with; the handler finds its object with CONTAINER_OF.
 *
 * Posting is lock-free: one compare-and-swap, and one eventfd write only where the receiver may be
 * asleep. The eventfd is level-triggered and readable while mail waits for a sleeping owner. */
#ifndef ONWARD_CORE_BASE_MAILBOX_H
#define ONWARD_CORE_BASE_MAILBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* A letter, embedded in what it is about. Its sender lets go of it when it is posted. */
struct mail {
    struct mail *next;
    void (*on_arrival)(struct mail *mail, void *owner);
};

struct mailbox {
    struct {
        _Alignas(64) _Atomic(struct mail *) head; /* newest first; any thread pushes */
        atomic_bool asleep;                       /* the owner set it before its last look */
    } shared;
    void *owner;
    int event_fd;  /* watch for EPOLLIN */
    bool sleeping; /* (owner) between mailbox_prepare_sleep and mailbox_awake */
    uint64_t
        wakes_owed; /* (owner) writes to event_fd that senders have announced and nobody has read */
};

/* Returns 0, or -1 with errno where no eventfd was to be had. */
int mailbox_init(struct mailbox *b, void *owner);

/* Asserts that the mailbox is empty: whoever stops a thread drains it first. */
void mailbox_fini(struct mailbox *b);

/* Hands `*mail` over and nulls it. Any thread; never blocks, never allocates. */
void mailbox_post(struct mailbox *b, struct mail **mail);

/* Delivers all that has arrived; returns how many. Owner thread only. */
unsigned mailbox_deliver(struct mailbox *b);

/* Call before sleeping in epoll_wait: true means sleep (a later post writes the eventfd), false
 * means mail has arrived in between, so poll without waiting. Owner thread only. */
bool mailbox_prepare_sleep(struct mailbox *b);

/* Call after epoll_wait: posts need no eventfd write while the owner is awake. Harmless where
 * mailbox_prepare_sleep said false. Owner thread only. */
void mailbox_awake(struct mailbox *b);

/* Wakes the owner if it sleeps, without sending it anything: true where it did. For work that waits
 * elsewhere (the job ring): the caller makes the work visible first, and the owner looks for it
 * after mailbox_prepare_sleep. Any thread. */
bool mailbox_wake_sleeper(struct mailbox *b);

#endif
