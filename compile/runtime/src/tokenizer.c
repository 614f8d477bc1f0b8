/* A text, or two, to the tokens that a model takes: decoded, cut at added tokens, and put into the model's template. */
#include "text.h"

#if PB_PIECES

void *pb_reserve(pb_reader *r, pb_block *block, size_t bytes)
{
    if (bytes <= block->bytes)
        return block->at;
    const size_t size = (bytes + 0xFFFF) & ~(size_t)0xFFFF;
    char *at = pb_pages(size, false);
    if (!at) {
        r->failed = true;
        return NULL;
    }
    if (block->bytes) {
        memcpy(at, block->at, block->bytes);
        pb_free_pages(block->at, block->bytes);
    }
    *block = (pb_block){at, size};
    return at;
}

static void release(pb_reader *r)
{
    pb_block *blocks[] = {&r->characters, &r->normal[0], &r->normal[1], &r->codes, &r->tokens, &r->work};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (blocks[i]->bytes)
            pb_free_pages(blocks[i]->at, blocks[i]->bytes);
}

void pb_emit(pb_reader *r, int32_t id, uint32_t begin, uint32_t end, size_t leading, size_t trailing)
{
    const size_t bytes = (r->token_count + 1) * sizeof(pb_found);
    pb_found *tokens = pb_reserve(r, &r->tokens, bytes <= r->tokens.bytes ? bytes : 2 * bytes);
    if (tokens)
        tokens[r->token_count++] = (pb_found){id, begin, end, (uint32_t)leading, (uint32_t)trailing, r->word};
}

/* The character that begins at p, and its bytes. What is not UTF-8 is U+FFFD, once for the longest part of a character
 * that could have gone on, as Unicode recommends and most decoders do. */
uint32_t pb_decode(const uint8_t *p, size_t left, uint32_t *bytes)
{
    const uint32_t c = p[0], more = c < 0x80 ? 0 : c < 0xC2 ? 4 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : c < 0xF5 ? 3 : 4;
    *bytes = 1;
    if (more == 0)
        return c;
    if (more == 4)
        return PB_REPLACEMENT;
    uint32_t code = c & (0x3Fu >> more), low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    uint32_t high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    for (uint32_t k = 1; k <= more; k++, low = 0x80, high = 0xBF) {
        if (k >= left || p[k] < low || p[k] > high)
            return PB_REPLACEMENT;
        code = code << 6 | (p[k] & 63);
        *bytes = k + 1;
    }
    return code;
}

typedef void (*use_segment)(pb_reader *r, pb_char *at, size_t count);

/* Whether at[first] to at[end] have a letter, digit or the like beside them. */
static bool is_inside_word(const pb_char *at, size_t first, size_t end, size_t count)
{
    return (first > 0 && pb_map(PB_WORD_CHARACTERS, at[first - 1].code)) ||
           (end < count && pb_map(PB_WORD_CHARACTERS, at[end].code));
}

static bool is_blank(uint32_t code)
{
    return pb_is_space(code) || (PB_SPLIT == PB_SPLIT_BYTES && code == 0x120); /* Ġ, as `tokenizers` has it */
}

/* An added token stands for all of at[first] to at[end]. */
static void emit_added(pb_reader *r, int32_t id, const pb_char *at, size_t first, size_t end)
{
    size_t leading = 0, trailing = 0;
    while (first + leading < end && is_blank(at[first + leading].code))
        leading++;
    while (end - trailing > first && is_blank(at[end - trailing - 1].code))
        trailing++;
    r->word++;
    pb_emit(r, id, at[first].begin, at[end - 1].end, leading, trailing);
}

/* Finds the added tokens under a root, at each place the longest; what lies between them goes to `use`. */
static void cut(pb_reader *r, pb_char *at, size_t count, uint32_t root, use_segment use)
{
    size_t segment = 0;
    for (size_t i = 0; i < count && !r->failed;) {
        uint32_t node = pb_from_root(root, at[i].code);
        if (!node) {
            i++;
            continue;
        }
        int32_t added = -1;
        size_t end = i + 1;
        for (size_t k = i + 1; node; node = pb_from_node(node, at[k++].code)) {
            if (pb_trie_value[node] >= 0) {
                added = pb_trie_value[node];
                end = k;
            }
            if (k == count)
                break;
        }
        if (added < 0) {
            i++;
            continue;
        }
        const int32_t flags = pb_added[2 * added + 1];
        if (!(flags & PB_SINGLE_WORD) || !is_inside_word(at, i, end, count)) {
            size_t first = i, after = end;
            while (flags & PB_LSTRIP && first > segment && pb_is_space(at[first - 1].code))
                first--;
            while (flags & PB_RSTRIP && after < count && pb_is_space(at[after].code))
                after++;
            if (first > segment)
                use(r, at + segment, first - segment);
            emit_added(r, pb_added[2 * added], at, first, after);
            segment = after;
            end = end > after ? end : after;
        }
        i = end;
    }
    if (segment < count)
        use(r, at + segment, count - segment);
}

static void read_segment(pb_reader *r, pb_char *at, size_t count)
{
    pb_char *normal;
    count = pb_normalize(r, at, count, &normal);
    if (count && !r->failed)
        cut(r, normal, count, PB_ROOT_NORMAL, pb_words);
}

static bool is_ascii_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Where the part of a text that begins at `begin` ends: before a blank between two words, from which on everything comes
 * out as if nothing were before it (PB_CUTS). So a long text takes no more memory and cache than a short one. */
static size_t end_of_part(const char *text, size_t begin, size_t size)
{
    for (size_t i = begin + PB_PART; PB_CUTS && i + 1 < size; i++)
        if (text[i] == ' ' && is_ascii_word(text[i - 1]) && is_ascii_word(text[i + 1]))
            return i;
    return size;
}

/* The tokens of a text, without those of the template. */
static void read_text(pb_reader *r, const char *text, size_t size)
{
    for (size_t begin = 0, end; begin < size && !r->failed; begin = end) {
        end = end_of_part(text, begin, size);
        pb_char *at = pb_reserve(r, &r->characters, (end - begin + 1) * sizeof *at);
        if (!at)
            return;
        at++; /* pb_words may put a character before the first */
        size_t count = 0;
        for (size_t i = begin, bytes; i < end; i += bytes, count++) {
            uint32_t length;
            const uint32_t code = pb_decode((const uint8_t *)text + i, end - i, &length);
            bytes = length;
            at[count] = (pb_char){code, (uint32_t)i, (uint32_t)(i + bytes)};
        }
        cut(r, at, count, PB_ROOT_RAW, read_segment);
    }
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

/* `count` characters after text[at], or before it. */
static uint32_t forward(const uint8_t *text, uint32_t at, uint32_t end, uint32_t count)
{
    for (uint32_t bytes; count && at < end; count--, at += bytes)
        pb_decode(text + at, end - at, &bytes);
    return at;
}

static uint32_t backward(const uint8_t *text, uint32_t begin, uint32_t at, uint32_t count)
{
    for (; count && at > begin; count--)
        for (at--; at > begin && (text[at] & 0xC0) == 0x80;)
            at--;
    return at;
}

/* Where the token begins and ends without its blanks, where the tokenizer leaves them out of its offsets. */
static void set_offsets(const char *text, const pb_found *token, bool first, int64_t *begin, int64_t *end)
{
    uint32_t from = token->begin, to = token->end, leading = token->leading;
    if (PB_TRIM) {
        if (PB_TRIM_KEEPS_PREFIX && leading == 1 && (first || !from))
            leading = 0;
        from = forward((const uint8_t *)text, from, to, leading);
        to = backward((const uint8_t *)text, from, to, token->trailing);
    }
    *begin = from;
    *end = to;
}

static void put(pocketbert_tokens *to, int64_t id, int64_t segment, int text, int64_t begin, int64_t end, int32_t word)
{
    const int32_t i = to->count++;
    to->ids[i] = id;
    if (to->segments)
        to->segments[i] = segment;
    if (to->texts)
        to->texts[i] = (int8_t)text;
    if (to->begins)
        to->begins[i] = begin;
    if (to->ends)
        to->ends[i] = end;
    if (to->words)
        to->words[i] = word;
}

static void put_text(pocketbert_tokens *to, const pb_reader *r, const char *text, size_t first, size_t count,
                     int64_t segment, int which)
{
    const pb_found *tokens = (const pb_found *)(const void *)r->tokens.at;
    for (size_t i = first; i < first + count; i++) {
        int64_t begin, end;
        set_offsets(text, &tokens[i], i == first, &begin, &end);
        put(to, tokens[i].id, segment, which, begin, end, (int32_t)tokens[i].word - 1);
    }
}

int32_t pb_template_size(bool pair)
{
    return pair ? PB_PAIR_SPECIALS : PB_SINGLE_SPECIALS;
}

int32_t pb_read(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes, pb_reading *reading)
{
    reading->text[0] = text;
    reading->text[1] = pair;
    for (int i = 0; i < 2; i++) {
        pb_reader *r = &reading->readers[i];
        r->token_count = r->word = 0;
        r->failed = false;
    }
    read_text(&reading->readers[0], text, text_bytes);
    if (pair)
        read_text(&reading->readers[1], pair, pair_bytes);
    return reading->readers[0].failed || reading->readers[1].failed ? POCKETBERT_ERROR_MEMORY : POCKETBERT_OK;
}

void pb_release(pb_reading *reading)
{
    release(&reading->readers[0]);
    release(&reading->readers[1]);
}

int32_t pb_cut(const pb_reading *reading, pocketbert_tokens *to)
{
    typedef struct {
        int32_t kind, id, segment;
    } item;
    static const item single[] = {PB_SINGLE}, two[] = {PB_PAIR};
    const bool pair = reading->text[1];
    const item *template = pair ? two : single;
    const size_t items = pair ? sizeof two / sizeof *two : sizeof single / sizeof *single;
    const size_t room = (size_t)(to->max_tokens - pb_template_size(pair));
    const size_t skip = to->skip > 0 ? (size_t)to->skip : 0;
    size_t counts[2] = {reading->readers[0].token_count, reading->readers[1].token_count}, first[2] = {0, 0};
    size_t *last = &counts[pair];
    first[pair] = skip < *last ? skip : *last;
    *last -= first[pair];
    const size_t before = counts[0] + counts[1];
    to->count = 0;
    if (to->windows && pair && counts[0] >= room)
        return POCKETBERT_ERROR_SHAPE;
    if (to->windows)
        *last = *last < room - (pair ? counts[0] : 0) ? *last : room - (pair ? counts[0] : 0);
    else
        share(room, &counts[0], &counts[1]);
    to->overflow = (int32_t)(before - counts[0] - counts[1]);
    for (size_t i = 0; i < items; i++) {
        const int which = template[i].kind == PB_PIECE_SECOND;
        if (template[i].kind == PB_PIECE_SPECIAL)
            put(to, template[i].id, template[i].segment, -1, 0, 0, -1);
        else
            put_text(to, &reading->readers[which], reading->text[which], first[which], counts[which],
                     template[i].segment, which);
    }
    return POCKETBERT_OK;
}

int32_t pb_text_tokens(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes, pocketbert_tokens *to)
{
    pb_reading reading = {.text = {NULL}};
    int32_t status = pb_read(text, text_bytes, pair, pair_bytes, &reading);
    if (status == POCKETBERT_OK)
        status = pb_cut(&reading, to);
    pb_release(&reading);
    return status;
}

const char *pb_piece(int32_t id)
{
    return id >= 0 && id < PB_PIECES && pb_piece_offsets[id] != UINT32_MAX ? pb_piece_text + pb_piece_offsets[id]
                                                                           : NULL;
}

#else

int32_t pb_template_size(bool pair)
{
    return pair ? 3 : 2;
}

void *pb_reserve(pb_reader *r, pb_block *block, size_t bytes)
{
    (void)r, (void)block, (void)bytes;
    return NULL;
}

uint32_t pb_decode(const uint8_t *p, size_t left, uint32_t *bytes)
{
    (void)left;
    *bytes = 1;
    return *p;
}

int32_t pb_read(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes, pb_reading *reading)
{
    (void)text, (void)text_bytes, (void)pair, (void)pair_bytes, (void)reading;
    return POCKETBERT_ERROR_VOCABULARY;
}

void pb_release(pb_reading *reading)
{
    (void)reading;
}

int32_t pb_cut(const pb_reading *reading, pocketbert_tokens *to)
{
    (void)reading, (void)to;
    return POCKETBERT_ERROR_VOCABULARY;
}

int32_t pb_text_tokens(const char *text, size_t text_bytes, const char *pair, size_t pair_bytes, pocketbert_tokens *to)
{
    (void)text, (void)text_bytes, (void)pair, (void)pair_bytes, (void)to;
    return POCKETBERT_ERROR_VOCABULARY;
}

const char *pb_piece(int32_t id)
{
    (void)id;
    return NULL;
}

#endif
