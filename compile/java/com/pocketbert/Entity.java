package com.pocketbert;

/** What is named in a text: {@code text.substring(begin, end)}. */
public final class Entity {
    private final String name;
    private final float score;
    private final int begin;
    private final int end;

    Entity(String name, float score, int begin, int end) {
        this.name = name;
        this.score = score;
        this.begin = begin;
        this.end = end;
    }

    /** The label without its B- or I-. */
    public String name() {
        return name;
    }

    /** The mean of its tokens' probabilities. */
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
        return name + " " + score + " " + begin + " " + end;
    }
}
