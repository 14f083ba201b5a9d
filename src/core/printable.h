/* Text from outside on its way to a terminal. */
#ifndef CLMLA_CORE_PRINTABLE_H
#define CLMLA_CORE_PRINTABLE_H

#include <stdbool.h>

/* Of ASCII; bytes of UTF-8 are printable. */
static inline bool mla__is_control(char c) { return (unsigned char)c < 0x20 || c == 0x7f; }

/* Puts `with` in the place of every control character. */
static inline void mla__make_printable(char *text, char with)
{
    for (; *text != '\0'; text++)
        if (mla__is_control(*text))
            *text = with;
}

#endif
