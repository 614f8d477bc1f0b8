package com.example.ask

import com.pocketbert.Model

/** What the model called [name] says of a text, as its task has it. */
class Ask(name: String) : AutoCloseable {
    private val model = Model.open(name)

    /** A line for each label, entity, word for a mask or answer; to be answered is the first line, from those below it. */
    fun ask(text: String): List<String> = when (model.task()) {
        "classify" -> model.classify(text, null, true).map { "%.3f  %s".format(it.score(), it.name()) }
        "entities" -> model.entities(text, true).map { "${it.name()}: ${text.substring(it.begin(), it.end())}" }
            .ifEmpty { listOf("Nothing is named in it") }
        "fill" -> model.fill(text, 5, true).flatten().map { "%.3f  %s".format(it.score(), it.name()) }
            .ifEmpty { listOf("Write [MASK] (or <mask>) where a word is wanted") }
        "embed" -> listOf(model.embed(text, true).take(8).joinToString(prefix = "[", postfix = ", …]"))
        "answer" -> model.answer(text.substringBefore('\n'), text.substringAfter('\n', ""))
            .map { "%.3f  %s".format(it.score(), it.text()) }
            .ifEmpty { listOf("Write a question, and below it the text that answers it") }
        else -> listOf("The model has no task: build a fine-tuned folder")
    }

    override fun close() = model.close()
}
