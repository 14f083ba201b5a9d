/* Text from outside on its way to a terminal or into JSON. */
#ifndef CLMLA_CORE_PRINTABLE_H
#define CLMLA_CORE_PRINTABLE_H

#include <stdbool.h>

/* Of ASCII. */
static inline bool mla__is_control(char c) { return (unsigned char)c < 0x20 || c == 0x7f; }

/* Makes valid UTF-8 without characters that a terminal would obey: tabs and line breaks become
 * blanks, and every byte of a control character, of a mark that turns the direction of text, or of
 * what is no UTF-8 becomes '?'. The length stays. */
void mla__make_printable(char *text);

#endif
