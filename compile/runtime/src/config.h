/* What a build decides, with defaults by which every source opens and compiles alone.
 *
 * A build defines PB(name), which the names of public symbols are made with: PB(open) is mobilebert_open. It writes what it
 * knows of the vocabulary into vocabulary.h; the defaults are those of a library with just the special pieces.
 */
#ifndef PB_CONFIG_H
#define PB_CONFIG_H

#define PB_PUBLIC __attribute__((visibility("default")))

#ifdef PB
#include "vocabulary.h"
#else
#define PB(name) pb_##name
#define PB_PIECES 5 /* 0: no vocabulary */
#define PB_CASED 0
#define PB_PAD 0 /* ids; -1: the vocabulary does not have it */
#define PB_UNKNOWN 1
#define PB_CLS 2
#define PB_SEP 3
#define PB_MASK 4
#define PB_TEXT_INPUTS PB_TEXT_IDS, PB_TEXT_MASK, PB_TEXT_SEGMENTS /* what each input of the model takes of a text */
#endif

/* As in compile/kernels/contract.py, with which the generated plan compares them. */
enum {
    PB_ALIGNMENT = 64, /* bytes: tensors begin at multiples of a cache line, which is the widest vector, too */
    PB_SLACK = 64,     /* bytes after a tensor that a vector kernel may read, and never write */
};

#endif
