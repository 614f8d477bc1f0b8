package com.pocketbert;

/** What answers a question: {@code context.substring(begin, end)}, empty where there is no answer. */
public final class Answer {
    private final String text;
    private final float score;
    private final int begin;
    private final int end;

    Answer(String text, float score, int begin, int end) {
        this.text = text;
        this.score = score;
        this.begin = begin;
        this.end = end;
    }

    public String text() {
        return text;
    }

    /** The probability that it begins there times that it ends there; of equal answers the sum. */
    public float score() {
        return score;
    }

    public int begin() {
        return begin;
    }

    public int end() {
        return end;
    }

    @Override
    public String toString() {
        return text + " " + score + " " + begin + " " + end;
    }
}
