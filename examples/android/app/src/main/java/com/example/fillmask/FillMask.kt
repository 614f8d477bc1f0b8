package com.example.fillmask

import com.pocketbert.Model

/** The likeliest words for a gap, by a model that was built with --head mlm and --vocab. */
class FillMask : AutoCloseable {
    private val model = Model.open("mobilebert_mlm")
    private val outputs = model.allocateOutputs()
    private val mask = model.tokenize("[MASK]", null)[1]

    /** The [best] words for the first [MASK] in [text], the likeliest first; none if there is no [MASK]. */
    fun fill(text: String, best: Int = 5): List<String> {
        val gap = model.tokenize(text, null).indexOf(mask)
        if (gap < 0) return emptyList()
        model.runText(text, null, outputs)
        val words = model.outputs()[0].shape()[2] // scores: [1, tokens, words]
        val scores = outputs[0].asFloatBuffer()
        return (0 until model.vocabularySize())
            .sortedByDescending { scores.get(gap * words + it) }
            .take(best)
            .map { model.token(it) }
    }

    override fun close() = model.close()
}
