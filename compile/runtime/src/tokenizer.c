/* Text to ids, as BERT's tokenizer does it: clean-up, words, and for each word the longest pieces first.
 *
 * One pass over the bytes, nothing allocated, time linear in the text: a word is cleaned into a buffer of fixed size,
 * and one that is longer is [UNK] by BERT's own rule. Bytes that are not UTF-8 are left out, like the U+FFFD that other
 * decoders put in their place.
 */
#include "runtime.h"

#if PB_PIECES

#include "../generated/unicode_tables.h"

enum { MAX_CHARACTERS = 100, MAX_UTF8 = 4 };
/* The trie's roots: of pieces as they are, of pieces that are written with ##. */
enum { WORD_START = 0, WORD_REST = 1 };

typedef struct {
    const uint8_t *text;
    size_t size;
    int64_t *ids;
    size_t room;       /* how many ids are kept */
    size_t count;      /* how many were found */
    size_t enough;     /* how many to look for */
    size_t characters; /* in the word, with those that are not kept because there are too many */
    uint32_t bytes;    /* in the word */
    uint8_t word[MAX_CHARACTERS * MAX_UTF8];
} reader;

static void put(reader *r, int64_t id)
{
    if (r->count < r->room)
        r->ids[r->count] = id;
    r->count++;
}

/* The longest piece that begins at word[from]; *end is where it ends, `from` if there is none. */
static int32_t longest_piece(const reader *r, uint32_t root, uint32_t from, uint32_t *end)
{
    int32_t piece = -1;
    *end = from;
    pb_trie_node node = pb_trie[root];
    for (uint32_t i = from; i < r->bytes; i++) {
        node = pb_trie[(node.base_label >> 8) + r->word[i]];
        if ((node.base_label & 255) != r->word[i])
            break;
        if (node.piece >= 0) {
            piece = node.piece;
            *end = i + 1;
        }
    }
    return piece;
}

static void end_word(reader *r)
{
    if (!r->characters)
        return;
    const size_t before = r->count;
    bool known = r->characters <= MAX_CHARACTERS;
    for (uint32_t from = 0, end; known && from < r->bytes; from = end) {
        const int32_t piece = longest_piece(r, from ? WORD_REST : WORD_START, from, &end);
        known = end > from;
        put(r, piece);
    }
    if (!known) {
        r->count = before;
        put(r, PB_UNKNOWN);
    }
    r->characters = r->bytes = 0;
}

static void add(reader *r, uint32_t code)
{
    if (r->characters++ >= MAX_CHARACTERS)
        return;
    uint8_t *to = r->word + r->bytes;
    if (code < 0x80) {
        to[0] = (uint8_t)code;
        r->bytes += 1;
    } else if (code < 0x800) {
        to[0] = (uint8_t)(0xC0 | code >> 6);
        to[1] = (uint8_t)(0x80 | (code & 63));
        r->bytes += 2;
    } else if (code < 0x10000) {
        to[0] = (uint8_t)(0xE0 | code >> 12);
        to[1] = (uint8_t)(0x80 | (code >> 6 & 63));
        to[2] = (uint8_t)(0x80 | (code & 63));
        r->bytes += 3;
    } else {
        to[0] = (uint8_t)(0xF0 | code >> 18);
        to[1] = (uint8_t)(0x80 | (code >> 12 & 63));
        to[2] = (uint8_t)(0x80 | (code >> 6 & 63));
        to[3] = (uint8_t)(0x80 | (code & 63));
        r->bytes += 4;
    }
}

static void add_alone(reader *r, uint32_t code)
{
    end_word(r);
    add(r, code);
    end_word(r);
}

/* Letters and digits from text[i] on; returns where they end. */
static size_t add_ascii(reader *r, size_t i)
{
    const size_t begin = i, room = r->characters < MAX_CHARACTERS ? MAX_CHARACTERS - r->characters : 0;
    uint8_t *to = r->word + r->bytes;
    for (uint8_t c; i < r->size && (c = ascii[r->text[i]]) > REPLACE; i++)
        if (i - begin < room)
            to[i - begin] = c;
    r->bytes += (uint32_t)(i - begin < room ? i - begin : room);
    r->characters += i - begin;
    return i;
}

/* The three Hangul letters of a syllable, by arithmetic (Unicode, section 3.12). */
static void add_syllable(reader *r, uint32_t code)
{
    const uint32_t index = code - 0xAC00;
    add(r, 0x1100 + index / 588);
    add(r, 0x1161 + index / 28 % 21);
    if (index % 28)
        add(r, 0x11A7 + index % 28);
}

/* The entry of the character at text[i]; *next is where the following one begins. */
static uint32_t entry_at(const reader *r, size_t i, uint32_t *code, size_t *next)
{
    const uint8_t *p = r->text + i;
    const size_t left = r->size - i;
    *next = i + 1; /* where it is no UTF-8: only this byte is left out */
    uint32_t c = p[0], length = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
    if (!length || length > left)
        return DROP;
    if (length > 1)
        c &= 0x7Fu >> length;
    for (uint32_t k = 1; k < length; k++) {
        if ((p[k] & 0xC0) != 0x80)
            return DROP;
        c = c << 6 | (p[k] & 63);
    }
    if ((length == 3 && (c < 0x800 || (c >= 0xD800 && c < 0xE000))) || (length == 4 && (c < 0x10000 || c > 0x10FFFF)))
        return DROP;
    *next = i + length;
    *code = c;
    return entries[middle[(uint32_t)high[c >> 10] << 5 | (c >> 5 & 31)] << 5 | (c & 31)];
}

/* Marks that no rule removes come in the order of their canonical classes, whatever it is in the text. One pass over
 * them for each class that occurs keeps that linear and needs no memory. Returns where they end. */
static size_t add_marks(reader *r, size_t begin)
{
    enum { NONE = 256 };
    size_t i = begin;
    for (uint32_t class = 0, following; class != NONE; class = following) {
        following = NONE;
        uint32_t code;
        for (size_t next = i = begin; i < r->size; i = next) {
            const uint32_t entry = entry_at(r, i, &code, &next);
            const uint32_t *element = elements + (entry >> 3);
            const bool marks = (entry & 7) == REPLACE && (i == begin || *element >> 24);
            if (!marks && entry != DROP)
                break;
            for (bool more = marks; more; more = !(*element++ & ELEMENT_LAST)) {
                const uint32_t found = *element >> 24;
                if (found > class && found < following)
                    following = found;
                if (found && found == class)
                    add(r, *element & 0x1FFFFF);
            }
        }
    }
    return i;
}

static size_t add_other(reader *r, size_t i)
{
    uint32_t code;
    size_t next;
    const uint32_t entry = entry_at(r, i, &code, &next);
    switch (entry & 7) {
    case KEEP:
        add(r, code);
        break;
    case SPACE:
        end_word(r);
        break;
    case ALONE:
        add_alone(r, code);
        break;
    case HANGUL:
        add_syllable(r, code);
        break;
    case REPLACE:
        for (const uint32_t *element = elements + (entry >> 3);; element++) {
            if (*element >> 24)
                return add_marks(r, i);
            (*element & ELEMENT_ALONE ? add_alone : add)(r, *element & 0x1FFFFF);
            if (*element & ELEMENT_LAST)
                break;
        }
    }
    return next;
}

/* A special piece that stands in the text as it is written counts as itself. Returns its length, 0 if there is none. */
static size_t add_special(reader *r, size_t i)
{
    static const struct {
        char text[7];
        int32_t id;
    } specials[] = {
        {"[MASK]", PB_MASK}, {"[UNK]", PB_UNKNOWN}, {"[SEP]", PB_SEP}, {"[CLS]", PB_CLS}, {"[PAD]", PB_PAD}};
    for (size_t s = 0; s < sizeof specials / sizeof *specials; s++) {
        size_t n = 0;
        while (specials[s].text[n] && i + n < r->size && r->text[i + n] == (uint8_t)specials[s].text[n])
            n++;
        if (!specials[s].text[n] && specials[s].id >= 0) {
            end_word(r);
            put(r, specials[s].id);
            return n;
        }
    }
    return 0;
}

/* Writes the first `room` ids and returns how many there are, or are until there are `enough`. */
static size_t find_ids(const char *text, size_t size, int64_t *ids, size_t room, size_t enough)
{
    reader r = {.text = (const uint8_t *)text, .size = size, .ids = ids, .room = room, .enough = enough};
    for (size_t i = 0; i < size && r.count < r.enough;) {
        const uint8_t c = ascii[r.text[i]];
        size_t special;
        if (c > REPLACE) {
            i = add_ascii(&r, i);
        } else if (c == SPACE) {
            end_word(&r);
            i++;
        } else if (c == ALONE && r.text[i] == '[' && (special = add_special(&r, i))) {
            i += special;
        } else if (c == ALONE) {
            add_alone(&r, r.text[i++]);
        } else {
            i = add_other(&r, i);
        }
    }
    end_word(&r);
    return r.count;
}

/* Truncation `longest_first`: the longer text gives way, and both once they are equally long. */
static void share(size_t room, size_t *first, size_t *second)
{
    if (*first + *second <= room)
        return;
    size_t *shorter = *first > *second ? second : first, *longer = *first > *second ? first : second;
    *shorter = *shorter < room / 2 ? *shorter : room / 2;
    *longer = room - *shorter;
}

int32_t pb_text_ids(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes, int32_t max_tokens,
                    int64_t *ids, int64_t *segments)
{
    const size_t room = (size_t)max_tokens - (pair ? 3 : 2);
    /* Which of two texts is the longer is known at their ends. `segments` serves as the second one's buffer. */
    size_t first = find_ids(text, text_bytes, ids + 1, room, pair ? SIZE_MAX : room);
    size_t second = pair ? find_ids(pair, pair_bytes, segments, room, SIZE_MAX) : 0;
    share(room, &first, &second);
    size_t count = 0;
    ids[count] = PB_CLS;
    count += first + 1;
    ids[count++] = PB_SEP;
    const size_t boundary = count;
    if (pair) {
        for (size_t i = 0; i < second; i++)
            ids[count++] = segments[i];
        ids[count++] = PB_SEP;
    }
    for (size_t i = 0; i < count; i++)
        segments[i] = i >= boundary;
    return (int32_t)count;
}

const char *pb_piece(int32_t id)
{
    return id >= 0 && id < PB_PIECES ? pb_piece_text + pb_piece_offsets[id] : NULL;
}

#else

int32_t pb_text_ids(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes, int32_t max_tokens,
                    int64_t *ids, int64_t *segments)
{
    (void)text, (void)text_bytes, (void)pair, (void)pair_bytes, (void)max_tokens, (void)ids, (void)segments;
    return 0;
}

const char *pb_piece(int32_t id)
{
    (void)id;
    return NULL;
}

#endif
