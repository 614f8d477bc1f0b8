package com.pocketbert;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;

/** The tokens of a text, or of two. Arrays are copies. */
public final class Tokens {
    private final long[] ids;
    private final long[] segments;
    private final int[] texts;
    private final int[] begins;
    private final int[] ends;
    private final int[] words;
    private final int overflow;

    Tokens(ByteBuffer memory, int room, int count, int overflow, String text, String pair) {
        int[][] places = {places(text), pair == null ? new int[1] : places(pair)};
        ids = new long[count];
        segments = new long[count];
        texts = new int[count];
        begins = new int[count];
        ends = new int[count];
        words = new int[count];
        this.overflow = overflow;
        for (int i = 0; i < count; i++) {
            ids[i] = memory.getLong(8 * (2 * room + i));
            segments[i] = memory.getLong(8 * (3 * room + i));
            words[i] = memory.getInt(32 * room + 4 * i);
            texts[i] = memory.get(36 * room + i);
            int[] of = places[Math.max(texts[i], 0)];
            begins[i] = texts[i] < 0 ? 0 : of[(int) memory.getLong(8 * i)];
            ends[i] = texts[i] < 0 ? 0 : of[(int) memory.getLong(8 * (room + i))];
        }
    }

    /** The index in a String of each byte of its UTF-8, and its length. A byte inside a character: where that begins. */
    static int[] places(String text) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        int[] result = new int[bytes.length + 1];
        int begin = 0;
        int next = 0;
        for (int i = 0; i < bytes.length; i++) {
            if ((bytes[i] & 0xC0) != 0x80) {
                begin = next;
                next += (bytes[i] & 0xF8) == 0xF0 ? 2 : 1;
            }
            result[i] = begin;
        }
        result[bytes.length] = next;
        return result;
    }

    public long[] ids() {
        return ids.clone();
    }

    public long[] segments() {
        return segments.clone();
    }

    /** 0 and 1 for tokens of the first text and the second, -1 for special pieces around them. */
    public int[] texts() {
        return texts.clone();
    }

    /** Where tokens begin in their text, for {@code substring}; 0 for special pieces. */
    public int[] begins() {
        return begins.clone();
    }

    public int[] ends() {
        return ends.clone();
    }

    /** Of which word of its text each is, as the tokenizer parts it, from 0 on; -1 for special pieces. */
    public int[] words() {
        return words.clone();
    }

    /** Which are special pieces around the texts. */
    public boolean[] special() {
        boolean[] result = new boolean[texts.length];
        for (int i = 0; i < result.length; i++) {
            result[i] = texts[i] < 0;
        }
        return result;
    }

    /** How many tokens there are beyond these. */
    public int overflow() {
        return overflow;
    }
}
