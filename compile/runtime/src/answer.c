/* Where in a context the answer to a question stands: what transformers' question-answering pipeline does.
 *
 * In each window the tokens of the context, and the special piece at its beginning, which stands for "no answer", get
 * probabilities to be an answer's first and its last. The best spans are widened to words, and those with the same letters,
 * upper or lower case, become one, with the sum of their scores.
 */
#include "tasks.h"

float expf(float x);

enum { MORE_SPANS = 10 }; /* than twice the answers asked for are looked at in a window: some may become one */

typedef struct {
    float score;
    int32_t first, last; /* tokens of a window */
} span;

typedef struct {
    double score;
    int64_t begin, end;
    uint64_t letters; /* a hash of them in lower case */
} candidate;

typedef struct {
    pb_pass *pass;
    pb_reader memory;
    pb_block spans, candidates;
    int32_t span_count, most_spans, count;
    float none; /* the least probability of no answer */
} search;

static uint32_t lower(uint32_t code)
{
    const uint32_t to = PB_LOWER < 0 ? 0 : pb_map(PB_LOWER < 0 ? 0 : PB_LOWER, code);
    return to ? to : code;
}

static uint64_t hash(const char *text, int64_t begin, int64_t end)
{
    uint64_t result = 0xCBF29CE484222325u;
    uint32_t bytes;
    for (int64_t i = begin; i < end; i += bytes)
        result = (result ^ lower(pb_decode((const uint8_t *)text + i, (size_t)(end - i), &bytes))) * 0x100000001B3u;
    return result;
}

static bool same_letters(const char *text, const candidate *a, const candidate *b)
{
    if (a->letters != b->letters)
        return false;
    uint32_t x = 0, y = 0;
    int64_t i = a->begin, k = b->begin;
    for (; i < a->end && k < b->end; i += x, k += y)
        if (lower(pb_decode((const uint8_t *)text + i, (size_t)(a->end - i), &x)) !=
            lower(pb_decode((const uint8_t *)text + k, (size_t)(b->end - k), &y)))
            return false;
    return i == a->end && k == b->end;
}

/* Whether a token may be of an answer. */
static bool is_allowed(const pocketbert_tokens *tokens, int32_t t)
{
    return tokens->texts[t] == 1 || (t == 0 && tokens->texts[t] < 0);
}

/* Logits to probabilities in place, as a softmax over the tokens that are allowed; others get 0. */
static void normalize(const pocketbert_tokens *tokens, float *values)
{
    float most = -10000, sum = 0;
    for (int32_t t = 0; t < tokens->count; t++)
        if (is_allowed(tokens, t) && values[t] > most)
            most = values[t];
    for (int32_t t = 0; t < tokens->count; t++)
        sum += values[t] = is_allowed(tokens, t) ? expf(values[t] - most) : 0;
    for (int32_t t = 0; t < tokens->count; t++)
        values[t] /= sum;
}

static void add_span(search *s, span new)
{
    span *spans = (span *)(void *)s->spans.at;
    int32_t place = s->span_count;
    while (place > 0 && spans[place - 1].score < new.score)
        place--;
    if (place == s->most_spans)
        return;
    s->span_count += s->span_count < s->most_spans;
    for (int32_t i = s->span_count - 1; i > place; i--)
        spans[i] = spans[i - 1];
    spans[place] = new;
}

/* As a stretch of the context, from where its first word begins in this window to where its last word ends. */
static void add_candidate(search *s, const char *context, span found)
{
    const pocketbert_tokens *tokens = &s->pass->tokens;
    while (found.first > 0 && tokens->texts[found.first - 1] == 1 &&
           tokens->words[found.first - 1] == tokens->words[found.first])
        found.first--;
    while (found.last + 1 < tokens->count && tokens->texts[found.last + 1] == 1 &&
           tokens->words[found.last + 1] == tokens->words[found.last])
        found.last++;
    candidate new = {(double)found.score, tokens->begins[found.first], tokens->ends[found.last], 0};
    if (new.end < new.begin)
        new.end = new.begin;
    new.letters = hash(context, new.begin, new.end);
    candidate *all = (candidate *)(void *)s->candidates.at;
    for (int32_t i = 0; i < s->count; i++)
        if (same_letters(context, &all[i], &new)) {
            all[i].score += new.score;
            return;
        }
    const size_t bytes = ((size_t)s->count + 1) * sizeof new;
    all = pb_reserve(&s->memory, &s->candidates, bytes <= s->candidates.bytes ? bytes : 2 * bytes);
    if (all)
        all[s->count++] = new;
}

static void search_window(search *s, const char *context)
{
    const pocketbert_tokens *tokens = &s->pass->tokens;
    float *starts = s->pass->outputs[PB_TASK_OUTPUT].data, *ends = s->pass->outputs[PB_END_OUTPUT].data;
    normalize(tokens, starts);
    normalize(tokens, ends);
    const float none = starts[0] * ends[0];
    if (none < s->none || none != none)
        s->none = none;
    s->span_count = 0;
    for (int32_t first = 0; first < tokens->count; first++) {
        const int64_t beyond = (int64_t)first + s->pass->options.longest;
        for (int32_t last = first; last < tokens->count && last < beyond; last++)
            if (tokens->texts[first] == 1 && tokens->texts[last] == 1 && !(starts[first] * ends[last] <= 0))
                add_span(s, (span){starts[first] * ends[last], first, last});
    }
    for (int32_t i = 0; i < s->span_count; i++)
        add_candidate(s, context, ((const span *)(const void *)s->spans.at)[i]);
}

/* The best of all windows, of equal ones the first. */
static int32_t choose(search *s, pocketbert_answer *answers, int32_t room)
{
    const candidate *all = (const candidate *)(const void *)s->candidates.at;
    const bool none = s->pass->options.no_answer;
    int32_t kept = 0;
    for (int32_t i = 0; i < s->count + none; i++) {
        const pocketbert_answer answer = i < s->count
                                             ? (pocketbert_answer){(float)all[i].score, 0, all[i].begin, all[i].end}
                                             : (pocketbert_answer){s->none, 0, 0, 0};
        if (answer.score < s->pass->options.threshold)
            continue;
        int32_t place = kept;
        while (place > 0 && answers[place - 1].score < answer.score)
            place--;
        if (place == room)
            continue;
        kept += kept < room;
        for (int32_t k = kept - 1; k > place; k--)
            answers[k] = answers[k - 1];
        answers[place] = answer;
    }
    return kept;
}

PB_PUBLIC int32_t PB(answer)(pocketbert_model *handle, const char *question, size_t question_bytes, const char *context,
                             size_t context_bytes, const pocketbert_task_options *options, pocketbert_answer *answers,
                             int32_t room, int32_t *count)
{
    enum { MOST_ANSWERS = 1 << 16 };
    pb_pass pass;
    search s = {.pass = &pass, .none = 1};
    const bool complete = answers && count && room > 0 && context;
    int32_t status = pb_begin_task(handle, POCKETBERT_ANSWER, complete, options, &pass);
    if (status == POCKETBERT_OK)
        status = pb_begin_text(&pass, question, question_bytes, context, context_bytes, NULL);
    if (status == POCKETBERT_OK) {
        s.most_spans = 2 * (room < MOST_ANSWERS ? room : MOST_ANSWERS) + MORE_SPANS;
        pb_reserve(&s.memory, &s.spans, (size_t)s.most_spans * sizeof(span));
    }
    while (status == POCKETBERT_OK && !s.memory.failed && pass.more &&
           (status = pb_next_window(&pass)) == POCKETBERT_OK)
        search_window(&s, context);
    if (status == POCKETBERT_OK && s.memory.failed)
        status = pb_fail(pass.model, POCKETBERT_ERROR_MEMORY, "answer: out of memory for what was found");
    if (status == POCKETBERT_OK)
        *count = choose(&s, answers, room);
    for (const pb_block *block = &s.spans; block; block = block == &s.spans ? &s.candidates : NULL)
        if (block->bytes)
            pb_free_pages(block->at, block->bytes);
    return pb_end_task(&pass, status);
}
