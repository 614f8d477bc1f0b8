/* Normalized characters to words, and each word to its pieces. */
#include "text.h"

#if PB_PIECES

/* Words between blanks; with PB_ALONE a character is a word, with PB_WORD its class goes on (as the regular expressions
 * \w+|[^\w\s]+ say). */
static void split_by_class(pb_reader *r, pb_char *at, size_t count)
{
    for (size_t i = 0; i < count && !r->failed;) {
        const uint32_t class = pb_map(PB_CLASSES, at[i].code);
        size_t end = i + 1;
        if (class == PB_SPACE) {
            i++;
            continue;
        }
        while (class != PB_ALONE && end < count && pb_map(PB_CLASSES, at[end].code) == class)
            end++;
        pb_pieces_of_word(r, at + i, end - i);
        i = end;
    }
}

/* ▁ in place of blanks, and before the first word; each begins a word. PB_FIRST: where the text begins, too. */
static void metaspace(pb_reader *r, pb_char *at, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (at[i].code == ' ')
            at[i].code = PB_METASPACE_CODE;
    if (at->code != PB_METASPACE_CODE && (PB_METASPACE == PB_ALWAYS || (PB_METASPACE == PB_FIRST && !at->begin))) {
        at--, count++;
        *at = (pb_char){PB_METASPACE_CODE, at[1].begin, at[1].end};
    }
    for (size_t i = 0, end; i < count && !r->failed; i = end) {
        for (end = i + 1; end < count && (!PB_METASPACE_SPLITS || at[end].code != PB_METASPACE_CODE);)
            end++;
        pb_pieces_of_word(r, at + i, end - i);
    }
}

static void one_word(pb_reader *r, pb_char *at, size_t count)
{
    if (PB_METASPACE == PB_NONE)
        pb_pieces_of_word(r, at, count);
    else
        metaspace(r, at, count);
}

static void split_by_space(pb_reader *r, pb_char *at, size_t count)
{
    for (size_t i = 0, end; i < count && !r->failed; i = end + 1) {
        for (end = i; end < count && !pb_is_space(at[end].code);)
            end++;
        if (end > i)
            one_word(r, at + i, end - i);
    }
}

/* How long 's, 't, 're, 've, 'm, 'll or 'd is; 0: none of them. */
static size_t contraction(const pb_char *at, size_t left)
{
    if (at[0].code != '\'' || left < 2)
        return 0;
    const uint32_t a = at[1].code, b = left > 2 ? at[2].code : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* GPT-2's 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t word_of_bytes(const pb_char *at, size_t left)
{
    size_t end = contraction(at, left);
    if (end)
        return end;
    if (at[0].code == ' ' && left > 1)
        end = 1;
    const uint32_t class = pb_map(PB_CLASSES, at[end].code);
    if (class != PB_SPACE) {
        while (end < left && pb_map(PB_CLASSES, at[end].code) == class)
            end++;
        return end;
    }
    for (end = 1; end < left && pb_map(PB_CLASSES, at[end].code) == PB_SPACE;)
        end++;
    return end < left && end > 1 ? end - 1 : end; /* the last blank belongs to the word after it */
}

static void split_by_bytes(pb_reader *r, pb_char *at, size_t count)
{
    if (PB_PREFIX_SPACE && at->code != ' ') {
        at--, count++;
        *at = (pb_char){' ', at[1].begin, at[1].end};
    }
    for (size_t i = 0, size; i < count && !r->failed; i += size) {
        size = word_of_bytes(at + i, count - i);
        pb_pieces_of_word(r, at + i, size);
    }
}

void pb_words(pb_reader *r, pb_char *at, size_t count)
{
    if (PB_SPLIT == PB_SPLIT_BYTES)
        split_by_bytes(r, at, count);
    else if (PB_SPLIT == PB_SPLIT_SPACE)
        split_by_space(r, at, count);
    else if (PB_SPLIT == PB_SPLIT_NONE)
        one_word(r, at, count);
    else
        split_by_class(r, at, count);
}

#endif
