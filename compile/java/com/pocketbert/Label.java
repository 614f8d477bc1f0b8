package com.pocketbert;

/** A label, or a piece for a mask, and how probable it is. */
public final class Label {
    private final String name;
    private final float score;

    Label(String name, float score) {
        this.name = name;
        this.score = score;
    }

    public String name() {
        return name;
    }

    public float score() {
        return score;
    }

    @Override
    public String toString() {
        return name + " " + score;
    }
}
