#include "core/printable.h"

#include <stddef.h>
#include <stdint.h>

/* Bytes of the UTF-8 sequence that text begins with; 0: it is none. A text that ends too early ends
 * in a zero, which continues nothing. */
static size_t read_sequence(const unsigned char *text, uint32_t *code)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    const size_t length = text[0] < 0x80   ? 1
                          : text[0] < 0xc0 ? 0
                          : text[0] < 0xe0 ? 2
                          : text[0] < 0xf0 ? 3
                          : text[0] < 0xf8 ? 4
                                           : 0;
    *code = length < 2 ? text[0] : text[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        *code = *code << 6 | (text[i] & 0x3fu);
    }
    return *code < smallest[length] || *code > 0x10ffff ? 0 : length;
}

/* C0, C1, the separators of lines and paragraphs, what embeds or overrides a direction, and
 * surrogates, which are no characters. */
static bool is_obeyed(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x2028 && code <= 0x202e) ||
           (code >= 0x2066 && code <= 0x2069) || (code >= 0xd800 && code <= 0xdfff);
}

void mla__make_printable(char *text)
{
    while (*text != '\0') {
        uint32_t code = 0;
        const size_t length = read_sequence((const unsigned char *)text, &code);
        if (length == 1 && code >= '\t' && code <= '\r')
            *text = ' ';
        else if (length == 0)
            *text = '?';
        else
            for (size_t i = 0; i < length && is_obeyed(code); i++)
                text[i] = '?';
        text += length == 0 ? 1 : length;
    }
}
