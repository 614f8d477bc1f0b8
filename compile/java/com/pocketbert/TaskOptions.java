package com.pocketbert;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.List;

/** How a task reads its text, and what it tells of it. */
public final class TaskOptions {
    /** What becomes of a text of more tokens than are read at once. */
    public enum LongText {
        /** An IllegalArgumentException. */
        REFUSE,
        /** It is cut; of a pair the longer text first. */
        TRUNCATE,
        /** All of it is read, in windows that share some tokens. */
        WINDOWS
    }

    private static final int INTS = 8;

    private LongText longText = LongText.REFUSE;
    private int maxTokens;
    private int stride;
    private int longest;
    private boolean noAnswer;
    private float threshold;
    private List<String> allow;
    private List<String> deny = Arrays.asList();
    int top;

    /** {@code answer} always reads in windows. */
    public TaskOptions longText(LongText value) {
        longText = value;
        return this;
    }

    /** How many tokens are read at once, special pieces included; 0: as many as the model takes ({@code answer}: 384). */
    public TaskOptions maxTokens(int value) {
        maxTokens = value;
        return this;
    }

    /** How many tokens neighbouring windows share; 0: half of a window, 128 at most; -1: none. */
    public TaskOptions stride(int value) {
        stride = value;
        return this;
    }

    /** For {@code answer}: the tokens of the longest one; 0: 15. */
    public TaskOptions longest(int value) {
        longest = value;
        return this;
    }

    /** For {@code answer}: whether an empty one, that there is none, is among the answers. */
    public TaskOptions noAnswer(boolean value) {
        noAnswer = value;
        return this;
    }

    /** What has a lower score is left out; not asked for a regression. */
    public TaskOptions threshold(float value) {
        threshold = value;
        return this;
    }

    /** For {@code classify}: how many labels at most; 0: all. */
    public TaskOptions top(int value) {
        top = value;
        return this;
    }

    /** For {@code classify}: the only labels to tell of. */
    public TaskOptions allow(String... labels) {
        allow = Arrays.asList(labels.clone());
        return this;
    }

    /** For {@code classify}: labels to leave out. */
    public TaskOptions deny(String... labels) {
        deny = Arrays.asList(labels.clone());
        return this;
    }

    static TaskOptions truncating(boolean truncate) {
        return new TaskOptions().longText(truncate ? LongText.TRUNCATE : LongText.REFUSE);
    }

    boolean readsWindows() {
        return longText == LongText.WINDOWS;
    }

    /** As jni.c reads them. */
    ByteBuffer toBuffer(List<String> labels) {
        int allowed = allow == null ? 0 : allow.size();
        ByteBuffer result = ByteBuffer.allocateDirect(4 * (INTS + allowed + deny.size() + 1)).order(ByteOrder.nativeOrder());
        result.putInt(longText.ordinal()).putInt(maxTokens).putInt(stride).putInt(longest).putInt(noAnswer ? 1 : 0);
        result.putFloat(threshold).putInt(allow == null ? -1 : allowed).putInt(deny.size());
        if (allow != null) {
            putNumbers(allow, labels, result);
        }
        putNumbers(deny, labels, result);
        return result;
    }

    private static void putNumbers(List<String> names, List<String> labels, ByteBuffer to) {
        for (String name : names) {
            int number = labels.indexOf(name);
            if (number < 0) {
                throw new IllegalArgumentException("the model has no label " + name + ": it has " + labels);
            }
            to.putInt(number);
        }
    }
}
