package com.pocketbert;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.Locale;

/** What a model says of one of its inputs or outputs. */
public final class TensorInfo {
    /** Element types, in the order of their codes in the C interface. */
    public enum Type {
        FLOAT32(4),
        INT64(8),
        INT32(4),
        BOOL(1);

        /** Size of an element in bytes. */
        public final int bytes;

        Type(int bytes) {
            this.bytes = bytes;
        }
    }

    private final String name;
    private final Type type;
    private final int[] shape;
    private final int tokenAxis;
    private final long low;
    private final long high;

    TensorInfo(String name, Type type, int[] shape, int tokenAxis, long low, long high) {
        this.name = name;
        this.type = type;
        this.shape = shape;
        this.tokenAxis = tokenAxis;
        this.low = low;
        this.high = high;
    }

    public String name() {
        return name;
    }

    public Type type() {
        return type;
    }

    /** The dimensions for the longest sequence. */
    public int[] shape() {
        return shape.clone();
    }

    /** The dimensions for a sequence of {@code tokens}. */
    public int[] shape(int tokens) {
        int[] result = shape();
        if (tokenAxis >= 0) {
            result[tokenAxis] = tokens;
        }
        return result;
    }

    /** The dimension that counts tokens and may be shorter, or -1. */
    public int tokenAxis() {
        return tokenAxis;
    }

    /** The least value of an integer that indexes a table; any value will do where low and high are equal. */
    public long low() {
        return low;
    }

    /** One more than the largest value of an integer that indexes a table. */
    public long high() {
        return high;
    }

    /** Size in bytes for the longest sequence. */
    public int bytes() {
        return bytesOf(shape);
    }

    /** Size in bytes for a sequence of {@code tokens}. */
    public int bytes(int tokens) {
        return bytesOf(shape(tokens));
    }

    /** A buffer that fits the longest sequence: direct, in the byte order of this machine, all zero. */
    public ByteBuffer allocate() {
        return ByteBuffer.allocateDirect(bytes()).order(ByteOrder.nativeOrder());
    }

    private int bytesOf(int[] dimensions) {
        int count = type.bytes;
        for (int dimension : dimensions) {
            count = Math.multiplyExact(count, dimension);
        }
        return count;
    }

    @Override
    public String toString() {
        String text = name + ": " + type.name().toLowerCase(Locale.ROOT) + Arrays.toString(shape);
        return low == high ? text : text + ", " + low + " <= id < " + high;
    }
}
