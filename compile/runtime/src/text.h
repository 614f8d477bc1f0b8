/* Text to tokens, in the order of the work: decode, find added tokens, normalize, split into words, words to pieces.
 * Everything about one tokenizer is a constant in vocabulary.h or a table in read-only data. Nothing here is public.
 *
 * A text is an array of characters, each with the bytes of the text that it stands for: steps rewrite the array. Memory
 * is some forty bytes for each byte of text, taken when it is needed and given back at the end.
 */
#ifndef PB_TEXT_H
#define PB_TEXT_H

#include "runtime.h"

enum { PB_WORDPIECE, PB_BPE, PB_UNIGRAM };                                             /* PB_MODEL */
enum { PB_SPLIT_NONE, PB_SPLIT_BERT, PB_SPLIT_SPACE, PB_SPLIT_WORDS, PB_SPLIT_BYTES }; /* PB_SPLIT */
enum { PB_NONE, PB_NEVER, PB_FIRST, PB_ALWAYS }; /* PB_METASPACE: when a ▁ is put before a word */
/* PB_STEPS: what a step does, and its argument. */
enum {
    PB_STEP_MAP,
    PB_STEP_DECOMPOSE,
    PB_STEP_COMPOSE,
    PB_STEP_STRIP,
    PB_STEP_REPLACE,
    PB_STEP_RUNS,
    PB_STEP_CHARSMAP
};
/* Which tree of pb_trie: pieces at a word's beginning, pieces that go on, added tokens in the text as it is and after
 * normalization, and what a charsmap replaces. */
enum { PB_ROOT_PIECES, PB_ROOT_REST, PB_ROOT_RAW, PB_ROOT_NORMAL, PB_ROOT_CHARSMAP, PB_ROOTS };
enum { PB_REPLACEMENT = 0xFFFD, PB_METASPACE_CODE = 0x2581, PB_NO_NODE = 0 };
/* Entries of a map: the character stays, goes, is a Hangul syllable, gets blanks around it; or elements[entry - PB_ELEMENTS] on replace it. */
enum { PB_KEEP, PB_DROP, PB_HANGUL, PB_SPACED, PB_ELEMENTS };
enum { PB_ELEMENT_LAST = 1 << 21, PB_ELEMENT_INSERTED = 1 << 22, PB_CODE = (1 << 21) - 1 };
enum { PB_OTHER, PB_SPACE, PB_ALONE, PB_WORD };               /* classes of PB_SPLIT_BERT and PB_SPLIT_WORDS */
enum { PB_LETTER = 2, PB_NUMBER };                            /* and of PB_SPLIT_BYTES */
enum { PB_EXTENDS = 1, PB_PREPENDS, PB_CONTROL, PB_PICTURE }; /* and of graphemes */
enum { PB_SINGLE_WORD = 1, PB_LSTRIP = 2, PB_RSTRIP = 4 };    /* flags of an added token */
enum { PB_PIECE_SPECIAL, PB_PIECE_FIRST, PB_PIECE_SECOND };   /* of a template: an id, the first text, the second */

#ifndef PB_PART
#define PB_PART 4096 /* bytes that are read at once, at least */
#endif

typedef struct {
    uint32_t code, begin, end;
} pb_char;

/* leading, trailing: blanks in it, which its offsets may leave out; word: the number of the word that it is of. */
typedef struct {
    int32_t id;
    uint32_t begin, end, leading, trailing, word;
} pb_found;

typedef struct {
    char *at;
    size_t bytes;
} pb_block;

typedef struct {
    pb_block characters, normal[2], codes, tokens, work;
    size_t token_count;
    uint32_t word;
    bool failed; /* there is no memory */
} pb_reader;

/* A text, or two, read once: what any number of windows are cut from. */
typedef struct {
    const char *text[2]; /* the second NULL where there is one text */
    pb_reader readers[2];
} pb_reading;

/* Tables that a build writes. A node's children are nodes pb_trie_first[n] to pb_trie_first[n + 1], by their labels. */
extern const uint32_t pb_trie_first[];
extern const uint8_t pb_trie_label[];
extern const int32_t pb_trie_value[];
extern const uint32_t pb_trie_roots[PB_ROOTS * 256];
/* Maps of code points, by three steps; and the first 128 of each once more. */
extern const uint16_t pb_map_ascii[], pb_map_high[], pb_map_middle[], pb_map_entries[];
extern const uint32_t pb_map_elements[];
extern const uint32_t pb_compositions[]; /* first, second, composed; in order */
extern const uint32_t pb_strings[];      /* of code points: the length, then so many */
extern const int32_t pb_added[];         /* of each added token: its id and its flags */
extern const uint32_t pb_merge_begin[];  /* of each left piece, into pb_merges */
extern const uint32_t pb_merges[];       /* the right piece, and the merge's rank; by the right piece */
extern const int32_t pb_merge_result[];  /* by rank */
extern const int32_t pb_byte_pieces[];
extern const double pb_scores[];

/* *reading is zeros, or of a text that was read before, whose memory it takes: pages that come and go halt other threads.
 * Returns POCKETBERT_OK or ERROR_MEMORY; pb_release must follow the last. */
int32_t pb_read(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes, pb_reading *reading);
/* The tokens with those of the template, as many as `to` has room for. Returns POCKETBERT_OK, or ERROR_SHAPE where the first
 * text leaves no room for a window of the second. */
int32_t pb_cut(const pb_reading *reading, pocketbert_tokens *to);
void pb_release(pb_reading *reading);

/* All three, for one window. */
int32_t pb_text_tokens(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes, pocketbert_tokens *to);

/* What to say where pb_cut and pb_read fail. */
extern const char pb_no_room[], pb_no_memory[];

/* At least so many bytes in a block, what is in it kept; NULL, and `failed`, where there are none. */
void *pb_reserve(pb_reader *r, pb_block *block, size_t bytes);
void pb_emit(pb_reader *r, int32_t id, uint32_t begin, uint32_t end, size_t leading, size_t trailing);

/* The character that begins at p, of which there are `left` bytes, and its bytes. */
uint32_t pb_decode(const uint8_t *p, size_t left, uint32_t *bytes);

static inline uint32_t pb_map(uint32_t map, uint32_t code)
{
    if (code < 128)
        return pb_map_ascii[map * 128 + code];
    const uint32_t high = pb_map_high[map * 1088 + (code >> 10)];
    return pb_map_entries[(uint32_t)pb_map_middle[high << 5 | (code >> 5 & 31)] << 5 | (code & 31)];
}

/* White_Space of Unicode. */
static inline bool pb_is_space(uint32_t c)
{
    return c == ' ' || (c >= 9 && c <= 13) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static inline uint32_t pb_child(uint32_t node, uint8_t label)
{
    uint32_t low = pb_trie_first[node], high = pb_trie_first[node + 1];
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (pb_trie_label[middle] == label)
            return middle;
        if (pb_trie_label[middle] < label)
            low = middle + 1;
        else
            high = middle;
    }
    return PB_NO_NODE;
}

static inline uint32_t pb_utf8(uint32_t code, uint8_t to[4])
{
    if (code < 0x80)
        return to[0] = (uint8_t)code, 1;
    const uint32_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (uint32_t i = length - 1; i > 0; i--, code >>= 6)
        to[i] = (uint8_t)(0x80 | (code & 63));
    to[0] = (uint8_t)((0xF00u >> length) | code);
    return length;
}

/* The node that a character leads to from a node, or from a root; PB_NO_NODE where nothing goes on with it. */
static inline uint32_t pb_from_root(uint32_t root, uint32_t code)
{
    uint8_t bytes[4];
    const uint32_t length = pb_utf8(code, bytes);
    uint32_t node = pb_trie_roots[root * 256 + bytes[0]];
    for (uint32_t i = 1; node && i < length; i++)
        node = pb_child(node, bytes[i]);
    return node;
}

static inline uint32_t pb_from_node(uint32_t node, uint32_t code)
{
    uint8_t bytes[4];
    const uint32_t length = pb_utf8(code, bytes);
    for (uint32_t i = 0; node && i < length; i++)
        node = pb_child(node, bytes[i]);
    return node;
}

/* normalize.c: *normal receives the characters, which may be those of `from`; before the first there is room for one. */
size_t pb_normalize(pb_reader *r, pb_char *from, size_t count, pb_char **normal);

/* words.c: the tokens of normalized characters without added tokens. at[-1] is overwritten. */
void pb_words(pb_reader *r, pb_char *at, size_t count);

/* pieces.c: the tokens of a word, which has at least one character. */
void pb_pieces_of_word(pb_reader *r, const pb_char *word, size_t count);

#endif
