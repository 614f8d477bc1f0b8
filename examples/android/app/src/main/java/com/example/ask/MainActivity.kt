package com.example.ask

import android.app.Activity
import android.os.Bundle
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.TextView
import com.pocketbert.ModelException
import java.util.concurrent.Executors

/** A text, a button, and what the model says of it. */
class MainActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor() // a run takes longer than a frame of the screen
    private var ask: Ask? = null // the worker's alone

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        val text = EditText(this).apply { setText("the capital of [MASK] is paris") }
        val answer = TextView(this)
        val button = Button(this).apply { this.text = "Ask" }
        button.setOnClickListener {
            val sentence = text.text.toString()
            worker.execute {
                val lines = try {
                    ask?.ask(sentence) ?: return@execute
                } catch (error: RuntimeException) { // as of a question that leaves no room for the text
                    listOf(error.message)
                }
                runOnUiThread { answer.text = lines.joinToString("\n") }
            }
        }
        setContentView(LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            fitsSystemWindows = true
            listOf(text, button, answer).forEach { addView(it) }
        })
        worker.execute {
            try {
                ask = Ask(BuildConfig.MODEL)
            } catch (error: ModelException) {
                runOnUiThread { answer.text = error.message }
            }
        }
    }

    override fun onDestroy() {
        worker.execute { ask?.close() }
        worker.shutdown()
        super.onDestroy()
    }
}
