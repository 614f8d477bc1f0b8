/* libFuzzer harness for the runtime's tokenizer alone: any bytes as one text or two, in any room, in windows.
 *
 * Arrays are exactly as large as they are said to be, and so are texts. tokenizer.py builds it for each kind of tokenizer.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "runtime.h"

static char *copy(const uint8_t *from, size_t size)
{
    char *to = malloc(size ? size : 1);
    CHECK(to);
    memcpy(to, from, size);
    return to;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 4)
        return 0;
    const bool two = data[0] & 1;
    const size_t first = two ? (size - 4) * data[1] / 256 : size - 4, second = size - 4 - first;
    char *text = copy(data + 4, first), *pair = two ? copy(data + 4 + first, second) : NULL;
    const int32_t room = pb_template_size(two) + data[2];
    pocketbert_tokens tokens = {
        .size = sizeof tokens, .max_tokens = room, .windows = data[0] >> 1 & 1, .skip = data[3]};
    const size_t bytes = (size_t)room * sizeof(int64_t);
    tokens.ids = malloc(bytes + 1);
    tokens.segments = malloc(bytes + 1);
    tokens.begins = malloc(bytes + 1);
    tokens.ends = malloc(bytes + 1);
    tokens.texts = malloc((size_t)room + 1);
    CHECK(tokens.ids && tokens.segments && tokens.begins && tokens.ends && tokens.texts);
    const int32_t status = pb_text_tokens(text, first, pair, second, &tokens);
    CHECK(status == POCKETBERT_OK || (status == POCKETBERT_ERROR_SHAPE && two && tokens.windows));
    CHECK(status != POCKETBERT_OK || (tokens.count <= room && tokens.count >= pb_template_size(two)));
    for (int32_t i = 0; i < tokens.count && status == POCKETBERT_OK; i++) {
        const size_t whole = tokens.texts[i] == 1 ? second : first;
        CHECK(tokens.ids[i] >= 0 && tokens.ids[i] < PB_PIECES && tokens.texts[i] >= -1 && tokens.texts[i] <= two);
        CHECK(tokens.begins[i] >= 0 && tokens.begins[i] <= tokens.ends[i] && tokens.ends[i] <= (int64_t)whole);
    }
    free(tokens.ids), free(tokens.segments), free(tokens.begins), free(tokens.ends), free(tokens.texts);
    free(text), free(pair);
    return 0;
}
