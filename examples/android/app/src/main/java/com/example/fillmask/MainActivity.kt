package com.example.fillmask

import android.app.Activity
import android.os.Bundle
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.TextView
import com.pocketbert.ModelException
import java.util.concurrent.Executors

/** A text with a gap, a button, and the words that the model puts there. */
class MainActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor() // a run takes longer than a frame of the screen
    private var fillMask: FillMask? = null // the worker's alone

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        val text = EditText(this).apply { setText("the capital of [MASK] is paris") }
        val answer = TextView(this)
        val button = Button(this).apply { this.text = "Fill" }
        button.setOnClickListener {
            val sentence = text.text.toString()
            worker.execute {
                val words = fillMask?.fill(sentence) ?: return@execute
                runOnUiThread { answer.text = words.joinToString("\n") }
            }
        }
        setContentView(LinearLayout(this).apply {
            orientation = LinearLayout.VERTICAL
            fitsSystemWindows = true
            listOf(text, button, answer).forEach { addView(it) }
        })
        worker.execute {
            try {
                fillMask = FillMask()
            } catch (error: ModelException) {
                runOnUiThread { answer.text = error.message }
            }
        }
    }

    override fun onDestroy() {
        worker.execute { fillMask?.close() }
        worker.shutdown()
        super.onDestroy()
    }
}
