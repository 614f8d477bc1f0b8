/* Words to pieces: WordPiece, byte-level BPE or Unigram. */
#include "text.h"

#if PB_PIECES

static void emit(pb_reader *r, int32_t id, const pb_char *first, const pb_char *last)
{
    pb_emit(r, id, first->begin, last->end, 0, 0);
}

/* The longest pieces first; a word that they do not make up, or that is too long, is unknown as a whole. */
static void wordpiece(pb_reader *r, const pb_char *word, size_t count)
{
    const size_t before = r->token_count;
    bool known = count <= PB_LONGEST_WORD;
    for (size_t from = 0, end; known && from < count; from = end) {
        int32_t piece = -1;
        end = from;
        uint32_t node = pb_from_root(from ? PB_ROOT_REST : PB_ROOT_PIECES, word[from].code);
        for (size_t i = from + 1; node; node = pb_from_node(node, word[i++].code)) {
            if (pb_trie_value[node] >= 0) {
                piece = pb_trie_value[node];
                end = i;
            }
            if (i == count)
                break;
        }
        known = end > from;
        if (known)
            emit(r, piece, word + from, word + end - 1);
    }
    if (!known) {
        r->token_count = before;
        emit(r, PB_UNKNOWN, word, word + count - 1);
    }
}

/* The rank of the merge of two pieces; -1: they do not merge. */
static int64_t merge_rank(int32_t left, int32_t right)
{
    uint32_t low = pb_merge_begin[left], high = pb_merge_begin[left + 1];
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (pb_merges[2 * middle] < (uint32_t)right)
            low = middle + 1;
        else
            high = middle;
    }
    const bool found = low < pb_merge_begin[left + 1] && pb_merges[2 * low] == (uint32_t)right;
    return found ? (int64_t)pb_merges[2 * low + 1] : -1;
}

/* A byte of a word, or the piece that begins there: `size` bytes, 0 where it has become part of the one before. */
typedef struct {
    int32_t piece;
    uint32_t size, previous, next; /* of the neighbours; NOBODY */
    uint32_t character;            /* of the word */
} symbol;

enum { NOBODY = -1 };

/* A binary heap of merges, the least rank first, of those the leftmost: rank << 32 | place. */
typedef struct {
    uint64_t *at;
    size_t count;
} heap;

static void push(heap *h, uint64_t merge)
{
    size_t i = h->count++;
    for (; i > 0 && h->at[(i - 1) / 2] > merge; i = (i - 1) / 2)
        h->at[i] = h->at[(i - 1) / 2];
    h->at[i] = merge;
}

static uint64_t pop(heap *h)
{
    const uint64_t least = h->at[0], last = h->at[--h->count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < h->count; i = child) {
        if (child + 1 < h->count && h->at[child + 1] < h->at[child])
            child++;
        if (h->at[child] >= last)
            break;
        h->at[i] = h->at[child];
    }
    h->at[i] = last;
    return least;
}

static void push_pair(heap *h, const symbol *symbols, uint32_t left)
{
    if (left == (uint32_t)NOBODY || symbols[left].next == (uint32_t)NOBODY)
        return;
    const int64_t rank = merge_rank(symbols[left].piece, symbols[symbols[left].next].piece);
    if (rank >= 0)
        push(h, (uint64_t)rank << 32 | left);
}

static void merge_all(heap *h, symbol *symbols)
{
    while (h->count) {
        const uint64_t merge = pop(h);
        symbol *left = &symbols[(uint32_t)merge];
        if (!left->size || left->next == (uint32_t)NOBODY)
            continue;
        symbol *right = &symbols[left->next];
        const int64_t rank = merge_rank(left->piece, right->piece);
        const int32_t result = pb_merge_result[merge >> 32];
        if (rank < 0 || pb_merge_result[rank] != result) /* the pair has changed since */
            continue;
        left->piece = result;
        left->size += right->size;
        left->next = right->next;
        right->size = 0;
        if (left->next != (uint32_t)NOBODY)
            symbols[left->next].previous = (uint32_t)merge;
        push_pair(h, symbols, left->previous);
        push_pair(h, symbols, (uint32_t)merge);
    }
}

static void bpe(pb_reader *r, const pb_char *word, size_t count)
{
    uint8_t bytes[4];
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += pb_utf8(word[i].code, bytes);
    /* A merge of each pair, then at most two more for each merge; and of each byte a symbol. */
    uint64_t *merges = pb_reserve(r, &r->work, total * (3 * sizeof *merges + sizeof(symbol)));
    if (!merges)
        return;
    symbol *symbols = (symbol *)(void *)(merges + 3 * total);
    uint32_t size = 0;
    for (size_t i = 0; i < count; i++) {
        const uint32_t length = pb_utf8(word[i].code, bytes);
        for (uint32_t k = 0; k < length; k++, size++)
            symbols[size] = (symbol){pb_byte_pieces[bytes[k]], 1, size - 1, size + 1, (uint32_t)i};
    }
    symbols[size - 1].next = (uint32_t)NOBODY;
    heap h = {.at = merges};
    for (uint32_t i = 0; i < size; i++)
        push_pair(&h, symbols, i);
    merge_all(&h, symbols);
    for (uint32_t i = 0; i < size; i = symbols[i].next) {
        const uint32_t end = symbols[i].next == (uint32_t)NOBODY ? size : symbols[i].next;
        const uint32_t first = symbols[i].character, last = symbols[end - 1].character;
        size_t leading = 0, trailing = 0;
        while (first + leading <= last && word[first + leading].code == ' ')
            leading++;
        while (trailing <= last - first && word[last - trailing].code == ' ')
            trailing++;
        pb_emit(r, symbols[i].piece, word[first].begin, word[last].end, leading, trailing);
        if (end == size)
            break;
    }
}

/* The best way to a place between characters. */
typedef struct {
    double score;
    uint32_t from;
    int32_t piece; /* the last on the way; -1: there is no way yet */
} step;

static void consider(step *place, double score, uint32_t from, int32_t piece)
{
    if (place->piece < 0 || score > place->score)
        *place = (step){score, from, piece};
}

/* Unknown characters side by side are one piece: the one that they make up together, if there is such a one. */
static int32_t find_piece(const pb_char *at, size_t count)
{
    uint32_t node = pb_from_root(PB_ROOT_PIECES, at[0].code);
    for (size_t i = 1; node && i < count; i++)
        node = pb_from_node(node, at[i].code);
    return node && pb_trie_value[node] >= 0 ? pb_trie_value[node] : PB_UNKNOWN;
}

static void unigram(pb_reader *r, const pb_char *word, size_t count)
{
    step *steps = pb_reserve(r, &r->work, (count + 1) * sizeof *steps);
    if (!steps)
        return;
    for (size_t i = 0; i <= count; i++)
        steps[i] = (step){0, 0, -1};
    for (size_t i = 0; i < count; i++) {
        bool alone = false; /* whether the character is a piece */
        uint32_t node = pb_from_root(PB_ROOT_PIECES, word[i].code);
        for (size_t end = i + 1; node; node = pb_from_node(node, word[end++].code)) {
            const int32_t piece = pb_trie_value[node];
            if (piece >= 0) {
                consider(&steps[end], pb_scores[piece] + steps[i].score, (uint32_t)i, piece);
                alone = alone || end == i + 1;
            }
            if (end == count)
                break;
        }
        if (!alone)
            consider(&steps[i + 1], PB_UNKNOWN_SCORE + steps[i].score, (uint32_t)i, PB_UNKNOWN);
    }
    const size_t first = r->token_count;
    for (size_t end = count, from; end > 0; end = from) {
        int32_t piece = steps[end].piece;
        from = steps[end].from;
        if (piece == PB_UNKNOWN) {
            while (from > 0 && steps[from].piece == PB_UNKNOWN)
                from = steps[from].from;
            piece = find_piece(word + from, end - from);
        }
        emit(r, piece, word + from, word + end - 1);
    }
    if (r->failed)
        return;
    pb_found *tokens = (pb_found *)(void *)r->tokens.at;
    for (size_t i = first, k = r->token_count; i + 1 < k; i++) {
        const pb_found token = tokens[i];
        tokens[i] = tokens[--k];
        tokens[k] = token;
    }
}

void pb_pieces_of_word(pb_reader *r, const pb_char *word, size_t count)
{
    r->word++;
    if (PB_MODEL == PB_BPE)
        bpe(r, word, count);
    else if (PB_MODEL == PB_UNIGRAM)
        unigram(r, word, count);
    else
        wordpiece(r, word, count);
}

#endif
