package com.example.ask

import android.app.Activity
import android.os.Bundle
import android.widget.ScrollView
import android.widget.TextView
import java.io.File
import java.io.IOException
import kotlin.concurrent.thread

/** Runs the benchmark program, if the app was built with it, shows what it prints and keeps that in benchmark.json. */
class BenchmarkActivity : Activity() {
    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        val shown = TextView(this).apply {
            setTextIsSelectable(true)
            text = "measuring …"
        }
        setContentView(ScrollView(this).apply {
            fitsSystemWindows = true
            addView(shown)
        })
        thread {
            val program = File(applicationInfo.nativeLibraryDir, "libbenchmark.so")
            val printed = try {
                if (program.exists()) run(program) else "this app was built without the benchmark program: see README.md"
            } catch (error: IOException) {
                error.toString()
            }
            runOnUiThread { shown.text = printed }
        }
    }

    private fun run(program: File): String {
        val process = ProcessBuilder(program.path).start()
        val printed = process.inputStream.bufferedReader().readText()
        val errors = process.errorStream.bufferedReader().readText() // a few lines: they fit into the pipe until now
        if (process.waitFor() != 0) return errors
        File(getExternalFilesDir(null), "benchmark.json").writeText(printed)
        return printed
    }
}
