#include "core/base/mailbox.h"

#include "core/base/assert.h"

#include <errno.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

int mailbox_init(struct mailbox *b, void *owner)
{
    atomic_init(&b->shared.head, NULL);
    atomic_init(&b->shared.asleep, false);
    b->owner = owner;
    b->sleeping = false;
    b->wakes_owed = 0;
    b->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return b->event_fd >= 0 ? 0 : -1;
}

void mailbox_fini(struct mailbox *b)
{
    ASSERT(atomic_load(&b->shared.head) == NULL);
    (void)close(b->event_fd);
    b->event_fd = -1;
}

static void wake(struct mailbox *b)
{
    uint64_t one = 1;
    ssize_t n = write(b->event_fd, &one, sizeof one);
    /* EAGAIN means the counter is full, so the descriptor is readable all the same. */
    ASSERT(n == (ssize_t)sizeof one || errno == EAGAIN);
}

void mailbox_post(struct mailbox *b, struct mail **mail)
{
    struct mail *m = *mail;
    *mail = NULL;
    struct mail *head = atomic_load_explicit(&b->shared.head, memory_order_relaxed);
    do {
        m->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&b->shared.head, &head, m, memory_order_seq_cst,
                                                    memory_order_relaxed));
    (void)mailbox_wake_sleeper(b);
}

bool mailbox_wake_sleeper(struct mailbox *b)
{
    /* Pairs with mailbox_prepare_sleep: either the owner sees what was made visible before this
     * call, or we see it asleep. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!atomic_load(&b->shared.asleep) || !atomic_exchange(&b->shared.asleep, false))
        return false;
    wake(b);
    return true;
}

unsigned mailbox_deliver(struct mailbox *b)
{
    struct mail *newest = atomic_exchange(&b->shared.head, NULL);
    struct mail *oldest = NULL;
    while (newest != NULL) {
        struct mail *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    unsigned count = 0;
    while (oldest != NULL) {
        struct mail *mail = oldest;
        oldest = mail->next;
        mail->next = NULL;
        mail->on_arrival(mail, b->owner);
        count++;
    }
    return count;
}

/* Nobody needs to wake the owner any more. Who has decided to do so already writes
 * sooner or later. */
static void call_off(struct mailbox *b)
{
    if (!atomic_exchange(&b->shared.asleep, false))
        b->wakes_owed++;
}

bool mailbox_prepare_sleep(struct mailbox *b)
{
    atomic_store(&b->shared.asleep, true);
    b->sleeping = atomic_load(&b->shared.head) == NULL;
    if (!b->sleeping)
        call_off(b);
    return b->sleeping;
}

/* Each write is read, lest it end all sleeps to come at once; that which a sender has announced and
 * not made yet (EAGAIN), behind a later sleep. */
void mailbox_awake(struct mailbox *b)
{
    uint64_t count;
    if (!b->sleeping)
        return;
    b->sleeping = false;
    call_off(b);
    if (b->wakes_owed > 0 && read(b->event_fd, &count, sizeof count) == (ssize_t)sizeof count)
        b->wakes_owed -= count;
}
