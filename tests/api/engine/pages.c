#include "pages.h"

void page_pool_init(struct page_pool *pool)
{
    pool->num_free = NUM_PAGES;
    for (int32_t i = 0; i < NUM_PAGES; i++)
        pool->free_pages[i] = NUM_PAGES - 1 - i;
}

bool page_list_reserve(struct page_list *list, struct page_pool *pool, int32_t num_keys)
{
    const int32_t needed = (num_keys + PAGE_BLOCK_SIZE - 1) / PAGE_BLOCK_SIZE;
    if (needed > MAX_PAGES_PER_SEQUENCE || needed - list->num_pages > pool->num_free)
        return false;
    while (list->num_pages < needed)
        list->pages[list->num_pages++] = pool->free_pages[--pool->num_free];
    return true;
}

void page_list_release(struct page_list *list, struct page_pool *pool)
{
    while (list->num_pages > 0)
        pool->free_pages[pool->num_free++] = list->pages[--list->num_pages];
}
