#include "core/base/timer.h"

#include "core/base/assert.h"

enum { SLOT_BITS = 6, SLOT_MASK = TIMER_SLOTS - 1, WAIT_MS_MAX = 60000 };

static_assert(TIMER_SLOTS == 1 << SLOT_BITS, "slots are addressed by bits of the due time");

#define REACH_MS ((UINT64_C(1) << (SLOT_BITS * TIMER_LEVELS)) - 1)

void timer_wheel_init(struct timer_wheel *w, uint64_t now_ms, void *owner)
{
    *w = (struct timer_wheel){.now_ms = now_ms, .owner = owner};
    for (int level = 0; level < TIMER_LEVELS; level++)
        for (int slot = 0; slot < TIMER_SLOTS; slot++)
            list_init(&w->slots[level][slot]);
}

void timer_init(struct timer *t, void (*on_due)(struct timer *timer, void *owner))
{
    *t = (struct timer){.on_due = on_due};
    list_init(&t->link);
}

/* The level is the highest group of six bits in which due time and hand differ. */
static int level_of(uint64_t now_ms, uint64_t due_ms)
{
    uint64_t differ = now_ms ^ due_ms;
    int level = differ == 0 ? 0 : (63 - __builtin_clzll(differ)) / SLOT_BITS;
    return level < TIMER_LEVELS ? level : TIMER_LEVELS - 1;
}

static void place(struct timer_wheel *w, struct timer *t)
{
    uint64_t due = t->due_ms > w->now_ms ? t->due_ms : w->now_ms + 1;
    if (due - w->now_ms > REACH_MS)
        due = w->now_ms + REACH_MS; /* sorted down again when the hand gets there */
    int level = level_of(w->now_ms, due);
    unsigned slot = (unsigned)(due >> (SLOT_BITS * level)) & SLOT_MASK;
    list_push_back(&w->slots[level][slot], &t->link);
    w->occupied[level] |= UINT64_C(1) << slot;
}

void timer_arm(struct timer_wheel *w, struct timer *t, uint64_t due_ms)
{
    if (timer_armed(t))
        list_remove(&t->link);
    else
        w->armed++;
    t->due_ms = due_ms;
    place(w, t);
}

void timer_disarm(struct timer_wheel *w, struct timer *t)
{
    if (!timer_armed(t))
        return;
    list_remove(&t->link);
    w->armed--;
}

/* First moment after the hand at which some slot must be looked at, or UINT64_MAX. Slots of a
 * level below the hand's own position belong to the next turn of that level, which a higher level
 * opens; so only slots ahead of the hand count. */
static uint64_t next_stop(const struct timer_wheel *w)
{
    uint64_t best = UINT64_MAX;
    for (int level = 0; level < TIMER_LEVELS; level++) {
        int shift = SLOT_BITS * level;
        unsigned hand = (unsigned)(w->now_ms >> shift) & SLOT_MASK;
        uint64_t ahead = hand == SLOT_MASK ? 0 : w->occupied[level] & (UINT64_MAX << (hand + 1));
        if (ahead == 0) {
            /* The top level wraps: its slots behind the hand are a whole turn away. */
            if (level == TIMER_LEVELS - 1 && w->occupied[level] != 0) {
                uint64_t turn = (w->now_ms >> (shift + SLOT_BITS)) + 1;
                uint64_t slot = (uint64_t)__builtin_ctzll(w->occupied[level]);
                uint64_t at = (turn << (shift + SLOT_BITS)) | (slot << shift);
                best = at < best ? at : best;
            }
            continue;
        }
        uint64_t base = w->now_ms >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        uint64_t at = base | ((uint64_t)__builtin_ctzll(ahead) << shift);
        if (at < best)
            best = at;
    }
    return best;
}

/* The hand stands at the opening of a slot on each level whose lower bits are all zero: sort
 * those down, highest level first. */
static void sort_down(struct timer_wheel *w)
{
    for (int level = TIMER_LEVELS - 1; level > 0; level--) {
        int shift = SLOT_BITS * level;
        if ((w->now_ms & ((UINT64_C(1) << shift) - 1)) != 0)
            continue;
        unsigned slot = (unsigned)(w->now_ms >> shift) & SLOT_MASK;
        struct link moved;
        list_init(&moved);
        list_splice_back(&moved, &w->slots[level][slot]);
        w->occupied[level] &= ~(UINT64_C(1) << slot);
        for (struct link *l; (l = list_pop_front(&moved)) != NULL;) {
            struct timer *t = CONTAINER_OF(l, struct timer, link);
            if (t->due_ms <= w->now_ms) { /* due exactly now: this millisecond's slot */
                unsigned now_slot = (unsigned)w->now_ms & SLOT_MASK;
                list_push_back(&w->slots[0][now_slot], &t->link);
                w->occupied[0] |= UINT64_C(1) << now_slot;
            } else {
                place(w, t);
            }
        }
    }
}

static unsigned fire(struct timer_wheel *w)
{
    unsigned slot = (unsigned)w->now_ms & SLOT_MASK;
    struct link due;
    list_init(&due);
    list_splice_back(&due, &w->slots[0][slot]);
    w->occupied[0] &= ~(UINT64_C(1) << slot);
    unsigned count = 0;
    for (struct link *l; (l = list_pop_front(&due)) != NULL; count++) {
        struct timer *t = CONTAINER_OF(l, struct timer, link);
        ASSERT_HOT(t->due_ms <= w->now_ms);
        w->armed--;
        t->on_due(t, w->owner);
    }
    return count;
}

unsigned timer_wheel_advance(struct timer_wheel *w, uint64_t now_ms)
{
    unsigned count = 0;
    while (w->now_ms < now_ms) {
        uint64_t stop = next_stop(w);
        if (stop > now_ms) {
            w->now_ms = now_ms;
            break;
        }
        w->now_ms = stop;
        sort_down(w);
        count += fire(w);
    }
    return count;
}

int timer_wheel_wait_ms(const struct timer_wheel *w, uint64_t now_ms)
{
    if (w->armed == 0)
        return -1;
    uint64_t stop = next_stop(w);
    if (stop <= now_ms)
        return 0;
    uint64_t wait = stop - now_ms;
    return wait < WAIT_MS_MAX ? (int)wait : WAIT_MS_MAX;
}
