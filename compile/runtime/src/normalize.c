/* The normalizers of a tokenizer, one after the other, each over all characters.
 *
 * What stands for which bytes of the text follows `tokenizers`: a step yields characters with a *change*: 0 for one that
 * replaces the next character of the source, 1 for one that is put in, -n for one that replaces the next and makes the n
 * after it go. A character that is put in stands for what the one before it stands for.
 */
#include "text.h"

#if PB_PIECES

typedef struct {
    uint8_t kind;
    uint32_t argument;
} pb_step;

/* The characters that a step yields; the last one waits, as what follows may yet change its change. */
typedef struct {
    pb_reader *reader;
    pb_block *block;
    pb_char *to;
    size_t count, room;
    const pb_char *from; /* the source */
    size_t size, next;   /* how many there are, and how many are replaced */
    uint32_t waiting;
    int64_t change;
    bool waits;
} writer;

static writer begin(pb_reader *r, pb_block *block, const pb_char *from, size_t size)
{
    return (writer){.reader = r, .block = block, .from = from, .size = size};
}

static void write(writer *w, uint32_t code, uint32_t first, uint32_t end)
{
    if (w->count == w->room) {
        const size_t room = w->room ? 2 * w->room : w->size + 64;
        pb_char *at = pb_reserve(w->reader, w->block, (room + 1) * sizeof *at);
        if (!at)
            return;
        w->to = at + 1; /* pb_words may put a character before the first */
        w->room = room;
    }
    w->to[w->count++] = (pb_char){code, first, end};
}

/* Without regard to changes: as it is in the source. */
static void copy(writer *w, const pb_char *from)
{
    write(w, from->code, from->begin, from->end);
}

static void flush(writer *w)
{
    if (!w->waits)
        return;
    w->waits = false;
    const size_t place = w->change > 0 ? w->next - 1 : w->next;
    const bool exists = place < w->size; /* SIZE_MAX is not */
    write(w, w->waiting, exists ? w->from[place].begin : w->from->begin, exists ? w->from[place].end : w->from->begin);
    if (w->change <= 0)
        w->next += (size_t)(1 - w->change);
}

static void put(writer *w, uint32_t code, int64_t change)
{
    flush(w);
    w->waiting = code;
    w->change = change;
    w->waits = true;
}

static void map(writer *w, uint32_t table)
{
    for (size_t i = 0; i < w->size && !w->reader->failed; i++) {
        const pb_char *from = w->from + i;
        const uint32_t entry = pb_map(table, from->code);
        if (entry == PB_KEEP) {
            copy(w, from);
        } else if (entry == PB_SPACED) {
            write(w, ' ', from->begin, from->end);
            copy(w, from);
            write(w, ' ', from->begin, from->end);
        } else if (entry != PB_DROP) {
            for (const uint32_t *element = pb_map_elements + (entry - PB_ELEMENTS);; element++) {
                write(w, *element & PB_CODE, from->begin, from->end);
                if (*element & PB_ELEMENT_LAST)
                    break;
            }
        }
    }
}

/* --- Unicode's normal forms. Codes with the canonical class in bits 24 to 31, and PB_ELEMENT_INSERTED. */

static uint32_t *push(pb_reader *r, uint32_t *codes, size_t *count, uint32_t code)
{
    if ((*count + 1) * sizeof *codes > r->codes.bytes || !codes)
        codes = pb_reserve(r, &r->codes, 2 * (*count + 64) * sizeof *codes);
    if (codes)
        codes[(*count)++] = code;
    return codes;
}

/* Marks from codes[begin] to codes[end] in the order of their classes; those of one class stay as they are. */
static void sort_marks(pb_reader *r, uint32_t *codes, size_t begin, size_t end)
{
    if (end - begin < 32) {
        for (size_t i = begin + 1; i < end; i++) {
            const uint32_t code = codes[i];
            size_t k = i;
            for (; k > begin && codes[k - 1] >> 24 > code >> 24; k--)
                codes[k] = codes[k - 1];
            codes[k] = code;
        }
        return;
    }
    size_t places[257] = {0};
    uint32_t *sorted = pb_reserve(r, &r->work, (end - begin) * sizeof *sorted);
    if (!sorted)
        return;
    for (size_t i = begin; i < end; i++)
        places[(codes[i] >> 24) + 1]++;
    for (size_t class = 1; class < 257; class++)
        places[class] += places[class - 1];
    for (size_t i = begin; i < end; i++)
        sorted[places[codes[i] >> 24]++] = codes[i];
    memcpy(codes + begin, sorted, (end - begin) * sizeof *sorted);
}

/* The decomposition of each character, with marks in order. */
static uint32_t *decompose(pb_reader *r, const pb_char *from, size_t size, uint32_t table, size_t *count)
{
    uint32_t *codes = NULL;
    size_t marks = 0; /* where the last ones begin */
    *count = 0;
    for (size_t i = 0; i < size && !r->failed; i++) {
        const uint32_t code = from[i].code, entry = pb_map(table, code);
        const size_t first = *count;
        if (entry == PB_KEEP) {
            codes = push(r, codes, count, code);
        } else if (entry == PB_HANGUL) { /* by arithmetic: Unicode, section 3.12 */
            const uint32_t index = code - 0xAC00;
            codes = push(r, codes, count, 0x1100 + index / 588);
            codes = push(r, codes, count, (0x1161 + index / 28 % 21) | PB_ELEMENT_INSERTED);
            if (index % 28)
                codes = push(r, codes, count, (0x11A7 + index % 28) | PB_ELEMENT_INSERTED);
        } else if (entry != PB_DROP) {
            const uint32_t *element = pb_map_elements + (entry - PB_ELEMENTS);
            for (uint32_t inserted = 0;; element++, inserted = PB_ELEMENT_INSERTED) {
                codes = push(r, codes, count, (*element & ~(uint32_t)PB_ELEMENT_LAST) | inserted);
                if (*element & PB_ELEMENT_LAST)
                    break;
            }
        }
        for (size_t k = first; k < *count && codes; k++)
            if (!(codes[k] >> 24)) {
                sort_marks(r, codes, marks, k);
                marks = k + 1;
            }
    }
    if (codes)
        sort_marks(r, codes, marks, *count);
    return codes;
}

static int64_t change_of(uint32_t code)
{
    return code & PB_ELEMENT_INSERTED ? 1 : 0;
}

/* The character that two make up; 0: none. */
static uint32_t compose(uint32_t first, uint32_t second)
{
    if (first >= 0x1100 && first < 0x1113 && second >= 0x1161 && second < 0x1176)
        return 0xAC00 + ((first - 0x1100) * 21 + (second - 0x1161)) * 28;
    if (first >= 0xAC00 && first < 0xD7A4 && (first - 0xAC00) % 28 == 0 && second > 0x11A7 && second < 0x11C3)
        return first + second - 0x11A7;
    size_t low = 0, high = PB_COMPOSITIONS;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const uint32_t *entry = pb_compositions + 3 * middle;
        if (entry[0] == first && entry[1] == second)
            return entry[2];
        if (entry[0] < first || (entry[0] == first && entry[1] < second))
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* A starter takes the marks after it that it composes with, unless one of the same class or a higher lies between; marks
 * that stay are moved together. Writes each starter with its marks. */
static void write_composed(writer *w, uint32_t *codes, size_t count)
{
    for (size_t i = 0, next; i < count && !w->reader->failed; i = next) {
        uint32_t starter = codes[i] & PB_CODE;
        int64_t change = change_of(codes[i]);
        const bool alone = codes[i] >> 24; /* a mark without a starter */
        size_t kept = i + 1;               /* marks that stay are codes[i + 1] to codes[kept] */
        for (next = i + 1; next < count && !alone; next++) {
            const uint32_t class = codes[next] >> 24;
            const bool blocked = kept > i + 1 && codes[kept - 1] >> 24 >= class;
            const uint32_t composed = blocked ? 0 : compose(starter, codes[next] & PB_CODE);
            if (composed) {
                starter = composed;
                change += change_of(codes[next]) - 1;
            } else if (class) {
                codes[kept++] = codes[next];
            } else {
                break;
            }
        }
        put(w, starter, change);
        for (size_t k = i + 1; k < kept; k++)
            put(w, codes[k] & PB_CODE, change_of(codes[k]));
    }
    flush(w);
}

/* Whether a normal form leaves all characters as they are. */
static bool is_normal(const pb_char *from, size_t count)
{
    size_t i = 0;
    while (i < count && from[i].code < PB_STABLE)
        i++;
    return i == count;
}

static void normal_form(writer *w, uint32_t table, bool composing)
{
    size_t count;
    uint32_t *codes = decompose(w->reader, w->from, w->size, table, &count);
    if (!codes)
        return;
    if (composing) {
        write_composed(w, codes, count);
        return;
    }
    for (size_t i = 0; i < count && !w->reader->failed; i++)
        put(w, codes[i] & PB_CODE, change_of(codes[i]));
    flush(w);
}

/* --- Blanks and strings. */

static void strip(writer *w, uint32_t sides)
{
    size_t first = 0, end = w->size;
    while (sides & 1 && first < end && pb_is_space(w->from[first].code))
        first++;
    while (sides & 2 && end > first && pb_is_space(w->from[end - 1].code))
        end--;
    for (size_t i = first; i < end && !w->reader->failed; i++)
        copy(w, w->from + i);
}

/* What stands in the place of from[i] to from[end] stands for what the last of them stood for. */
static void write_string(writer *w, const uint32_t *string, size_t end)
{
    for (uint32_t k = 0; k < string[0]; k++)
        write(w, string[k + 1], w->from[end - 1].begin, w->from[end - 1].end);
}

static const uint32_t *string_after(const uint32_t *string)
{
    return string + 1 + string[0];
}

static void replace(writer *w, const uint32_t *pattern)
{
    for (size_t i = 0; i < w->size && !w->reader->failed;) {
        uint32_t k = 0;
        while (k < pattern[0] && i + k < w->size && w->from[i + k].code == pattern[k + 1])
            k++;
        if (k == pattern[0]) {
            write_string(w, string_after(pattern), i + k);
            i += k;
        } else {
            copy(w, w->from + i++);
        }
    }
}

/* Two blanks or more. pattern: whether any white space counts, and whether \n, \r and \t alone do; then the string. */
static void replace_runs(writer *w, const uint32_t *pattern)
{
    const bool any = pattern[1] & 1, alone = pattern[1] & 2;
    for (size_t i = 0, end; i < w->size && !w->reader->failed; i = end) {
        const uint32_t code = w->from[i].code;
        for (end = i; end < w->size && (w->from[end].code == ' ' || (any && pb_is_space(w->from[end].code)));)
            end++;
        if (end > i + 1 || (alone && (code == '\n' || code == '\r' || code == '\t'))) {
            end = end > i ? end : i + 1;
            write_string(w, string_after(pattern), end);
        } else {
            end = i + 1;
            copy(w, w->from + i);
        }
    }
}

/* --- SentencePiece's map of characters, which `tokenizers` applies to grapheme clusters of less than six bytes, else to
 * each character. Unicode's rules for their boundaries (annex 29), except those that can only matter in longer ones. */

static uint32_t hangul(uint32_t c)
{
    enum { NONE, L, V, T, LV, LVT };
    if (c >= 0xAC00 && c < 0xD7A4)
        return (c - 0xAC00) % 28 ? LVT : LV;
    if ((c >= 0x1100 && c < 0x1160) || (c >= 0xA960 && c < 0xA97D))
        return L;
    if ((c >= 0x1160 && c < 0x11A8) || (c >= 0xD7B0 && c < 0xD7C7))
        return V;
    return (c >= 0x11A8 && c < 0x1200) || (c >= 0xD7CB && c < 0xD7FC) ? T : NONE;
}

static bool hangul_joins(uint32_t left, uint32_t right)
{
    enum { NONE, L, V, T, LV, LVT };
    const uint32_t a = hangul(left), b = hangul(right);
    return (a == L && b != NONE && b != T) || ((a == LV || a == V) && (b == V || b == T)) ||
           ((a == LVT || a == T) && b == T);
}

static size_t grapheme(const pb_char *at, size_t left)
{
    size_t end = 1;
    bool picture = pb_map(PB_GRAPHEMES, at[0].code) == PB_PICTURE; /* with what extends it */
    for (; end < left; end++) {
        const uint32_t a = at[end - 1].code, b = at[end].code;
        const uint32_t before = pb_map(PB_GRAPHEMES, a), after = pb_map(PB_GRAPHEMES, b);
        if (a == '\r' && b == '\n')
            continue;
        if (before == PB_CONTROL || after == PB_CONTROL)
            break;
        const bool joined = picture && a == 0x200D && after == PB_PICTURE;
        if (after != PB_EXTENDS && before != PB_PREPENDS && !joined && !hangul_joins(a, b))
            break;
        picture = after == PB_PICTURE || (picture && after == PB_EXTENDS);
    }
    return end;
}

/* The string that replaces the shortest beginning of the characters that has one; NULL: none does. */
static const uint32_t *find_string(const pb_char *at, size_t count)
{
    uint8_t bytes[4];
    uint32_t node = PB_NO_NODE;
    for (size_t i = 0; i < count; i++) {
        const uint32_t length = pb_utf8(at[i].code, bytes);
        for (uint32_t k = 0; k < length; k++) {
            node = i || k ? pb_child(node, bytes[k]) : pb_trie_roots[PB_ROOT_CHARSMAP * 256 + bytes[0]];
            if (node == PB_NO_NODE || !at[i].code)
                return NULL;
            if (pb_trie_value[node] >= 0)
                return pb_strings + pb_trie_value[node];
        }
    }
    return NULL;
}

static void write_mapped(writer *w, const uint32_t *string, size_t replaced)
{
    const int64_t more = (int64_t)string[0] - (int64_t)replaced;
    for (int64_t k = 0; k < string[0]; k++)
        put(w, string[k + 1], k >= (int64_t)string[0] - more ? 1 : 0);
    if (more < 0 && w->waits)
        w->change += more;
}

static void charsmap(writer *w)
{
    for (size_t i = 0, end; i < w->size && !w->reader->failed; i = end) {
        end = i + grapheme(w->from + i, w->size - i);
        size_t bytes = 0;
        uint8_t unused[4];
        for (size_t k = i; k < end && bytes < 6; k++)
            bytes += pb_utf8(w->from[k].code, unused);
        const uint32_t *string = bytes < 6 ? find_string(w->from + i, end - i) : NULL;
        if (string) {
            write_mapped(w, string, end - i);
            continue;
        }
        for (size_t k = i; k < end; k++) {
            string = find_string(w->from + k, 1);
            if (string)
                write_mapped(w, string, 1);
            else
                put(w, w->from[k].code, 0);
        }
    }
    flush(w);
}

size_t pb_normalize(pb_reader *r, pb_char *from, size_t count, pb_char **normal)
{
    static const pb_step steps[] = {PB_STEPS};
    for (size_t s = 0, written = 0; s < PB_STEP_COUNT && count && !r->failed; s++) {
        const uint32_t argument = steps[s].argument;
        const bool form = steps[s].kind == PB_STEP_DECOMPOSE || steps[s].kind == PB_STEP_COMPOSE;
        if (form && is_normal(from, count))
            continue;
        writer w = begin(r, &r->normal[written++ % 2], from, count);
        switch (steps[s].kind) {
        case PB_STEP_MAP:
            map(&w, argument);
            break;
        case PB_STEP_DECOMPOSE:
        case PB_STEP_COMPOSE:
            normal_form(&w, argument, steps[s].kind == PB_STEP_COMPOSE);
            break;
        case PB_STEP_STRIP:
            strip(&w, argument);
            break;
        case PB_STEP_REPLACE:
            replace(&w, pb_strings + argument);
            break;
        case PB_STEP_RUNS:
            replace_runs(&w, pb_strings + argument);
            break;
        case PB_STEP_CHARSMAP:
            charsmap(&w);
            break;
        }
        from = w.to;
        count = w.count;
    }
    *normal = from;
    return count;
}

#endif
